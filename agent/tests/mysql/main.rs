//! The parts of the agent against real MySQL servers.

mod agent;
mod capture;
mod durable;
mod facts;
mod hostile;
mod login_errors;
mod logins;
mod semi_sync;
mod stream;
