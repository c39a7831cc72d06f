//! The harness of the end-to-end suites: real servers, a real workload, the built programs, and a way to
//! say whether two servers hold the same.
//!
//! MySQL comes from `scripts/mysql` (run by `scripts/setup`). A test that does not find it fails and says so.

mod archived;
mod confined;
mod dice;
mod installation;
mod ledger;
mod mysql;
mod pair;
mod power;
mod process;
mod programs;
mod protected;
mod proxy;
mod state;
mod tls;
mod workload;
mod writer;

pub use archived::{Archived, ArchivedBytes, BinlogPlace};
pub use confined::seen_by;
pub use dice::{Dice, size_of_run};
pub use installation::Installation;
pub use ledger::Ledger;
pub use mysql::{MysqlServer, MysqlServerBuilder, mysql_program};
pub use pair::Pair;
pub use power::{FsyncLog, Lost, Unsynced};
pub use process::{Background, Finished, resident_peak_mib};
pub use programs::Programs;
pub use protected::Protected;
pub use proxy::{Fault, Proxy};
pub use state::{Difference, State};
pub use tls::TlsFiles;
pub use workload::{TOTAL_BALANCE, Workload};
pub use writer::Writer;
