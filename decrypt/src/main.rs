//! Opens encrypted binary logs offline.

use std::process::ExitCode;

fn main() -> ExitCode {
    binlog_decrypt::main()
}
