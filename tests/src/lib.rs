//! The harness of the end-to-end suites: real servers, a real workload, the built programs, and a way to
//! say whether two servers hold the same.
//!
//! MySQL comes from `scripts/mysql` (run by `scripts/setup`). A test that does not find it fails and says so.

mod installation;
mod mysql;
mod process;
mod programs;
mod state;
mod tls;
mod workload;
mod writer;

pub use installation::Installation;
pub use mysql::{MysqlServer, MysqlServerBuilder, mysql_program};
pub use process::{Background, Finished};
pub use programs::Programs;
pub use state::{Difference, State};
pub use tls::TlsFiles;
pub use workload::{TOTAL_BALANCE, Workload};
pub use writer::Writer;
