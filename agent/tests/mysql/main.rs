//! The parts of the agent against real MySQL servers.

mod agent;
mod capture;
mod login_errors;
mod logins;
mod stream;
