//! Keys are in this process's memory: they must not end up in a core file, or with another process of the account.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// No core files, and no other process may look into this one (`PR_SET_DUMPABLE`). Where the system does not allow
/// that, the run goes on: the keys are still wiped when they are no longer used.
pub fn keep_memory_private() {
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
