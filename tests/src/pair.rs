//! A source, a replica that may take its place, and the archive.

use std::fs;
use std::io;

use anyhow::{Result, ensure};

use crate::installation::Installation;
use crate::mysql::{MysqlServer, MysqlServerBuilder};

/// A source, a replica of it, and an installation that names the replica in `source.failover`.
#[derive(Debug)]
pub struct Pair {
    /// The source.
    pub source: MysqlServer,
    /// Its replica.
    pub replica: MysqlServer,
    /// The archive and its configuration.
    pub highwater: Installation,
}

impl Pair {
    /// Starts both; the source has an empty schema `d`.
    pub fn start(source: MysqlServerBuilder) -> Result<Self> {
        let source = source.start()?;
        let replica = MysqlServer::builder().server_id(2).start()?;
        replica.sql("RESET BINARY LOGS AND GTIDS")?;
        source.sql("CREATE DATABASE d")?;
        let highwater = Installation::new(&source)?;
        // Each has its own authority.
        let authorities = [&source, &replica].map(|server| fs::read_to_string(&server.tls().ca)).into_iter();
        fs::write(highwater.folder().join("authorities.pem"), authorities.collect::<io::Result<String>>()?)?;
        highwater.change_config(&source.tls().ca.display().to_string(), "authorities.pem")?;
        highwater.configure("source", &format!("failover = [\"127.0.0.1:{}\"]", replica.port()))?;
        replica.replicate_from(&source)?;
        Ok(Self { source, replica, highwater })
    }

    /// Waits until the replica has executed everything that the source has.
    pub fn wait_for_replica(&self) -> Result<()> {
        let executed = self.source.gtid_executed()?;
        let timed_out = self.replica.sql(&format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{executed}', 60)"))?;
        ensure!(timed_out == "0", "the replica has not executed {executed}");
        Ok(())
    }
}
