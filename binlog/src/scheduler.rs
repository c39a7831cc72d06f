//! Statements that change which events of the scheduler there are and whether they run.

use crate::tokens::{Token, Tokens};

/// Whether an event of the scheduler runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchedulerEventStatus {
    /// `ENABLE`.
    Enabled,
    /// `DISABLE`.
    Disabled,
    /// `DISABLE ON REPLICA`, before 8.0.22 `ON SLAVE`.
    DisabledOnReplica,
}

/// An event's name; without a schema, it is in the statement's current one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedulerEventName {
    /// Its schema, if given.
    pub schema: Option<String>,
    /// Its name, without quotes.
    pub name: String,
}

/// What a statement does to events of the scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchedulerStatement {
    /// `CREATE EVENT`.
    Create {
        /// The event.
        event: SchedulerEventName,
        /// Whether an event of that name may be there already, which then stays as it is.
        if_not_exists: bool,
        /// Whether it runs.
        status: SchedulerEventStatus,
    },
    /// `ALTER EVENT`.
    Alter {
        /// The event.
        event: SchedulerEventName,
        /// Its new name, if it gets one.
        renamed_to: Option<SchedulerEventName>,
        /// Whether it runs from now on, if that changes.
        status: Option<SchedulerEventStatus>,
    },
    /// `DROP EVENT`.
    Drop {
        /// The event.
        event: SchedulerEventName,
    },
    /// `DROP DATABASE`, and with it all its events.
    DropSchema {
        /// The schema.
        schema: String,
    },
}

/// What `statement`, as a source logged it, does to events of the scheduler; none for every other statement.
///
/// The text must be one statement that a server has accepted: of others it may see more than there is.
#[must_use]
pub fn event_statement(statement: &str) -> Option<SchedulerStatement> {
    let mut tokens = Tokens::new(statement);
    match tokens.next()? {
        verb if verb.is_word("CREATE") => create_event(tokens),
        verb if verb.is_word("ALTER") => alter_event(tokens),
        verb if verb.is_word("DROP") => drop_event(tokens),
        _ => None,
    }
}

fn create_event(mut tokens: Tokens<'_>) -> Option<SchedulerStatement> {
    skip_definer(&mut tokens);
    if !tokens.word("EVENT") {
        return None;
    }
    let if_not_exists = tokens.words(&["IF", "NOT", "EXISTS"]);
    let event = event_name(&mut tokens)?;
    let clauses = Clauses::read(tokens);
    let status = clauses.status.unwrap_or(SchedulerEventStatus::Enabled);
    Some(SchedulerStatement::Create { event, if_not_exists, status })
}

fn alter_event(mut tokens: Tokens<'_>) -> Option<SchedulerStatement> {
    skip_definer(&mut tokens);
    if !tokens.word("EVENT") {
        return None;
    }
    let event = event_name(&mut tokens)?;
    let Clauses { status, renamed_to } = Clauses::read(tokens);
    Some(SchedulerStatement::Alter { event, renamed_to, status })
}

fn drop_event(mut tokens: Tokens<'_>) -> Option<SchedulerStatement> {
    let of_event = tokens.word("EVENT");
    if !of_event && !tokens.word("DATABASE") && !tokens.word("SCHEMA") {
        return None;
    }
    tokens.words(&["IF", "EXISTS"]);
    if of_event {
        return Some(SchedulerStatement::Drop { event: event_name(&mut tokens)? });
    }
    Some(SchedulerStatement::DropSchema { schema: tokens.name()? })
}

fn event_name(tokens: &mut Tokens<'_>) -> Option<SchedulerEventName> {
    let (schema, name) = tokens.qualified_name()?;
    Some(SchedulerEventName { schema, name })
}

/// Takes `DEFINER = user@host` or `DEFINER = CURRENT_USER()` if it is next.
pub(crate) fn skip_definer(tokens: &mut Tokens<'_>) {
    if !tokens.word("DEFINER") || !tokens.sign('=') {
        return;
    }
    tokens.next();
    if tokens.sign('(') {
        tokens.sign(')');
    } else if tokens.sign('@') {
        tokens.next();
        // A host without quotes may have dots and hyphens in it.
        while tokens.sign('.') || tokens.sign('-') {
            tokens.next();
        }
    }
}

/// What stands between an event's name and `DO`, as far as it matters here.
#[derive(Default)]
struct Clauses {
    status: Option<SchedulerEventStatus>,
    renamed_to: Option<SchedulerEventName>,
}

impl Clauses {
    fn read(mut tokens: Tokens<'_>) -> Self {
        let mut clauses = Self::default();
        let mut depth = 0u32;
        loop {
            // Expressions of the schedule may stand in brackets; no clause does.
            if depth == 0 {
                if tokens.words(&["RENAME", "TO"]) {
                    clauses.renamed_to = event_name(&mut tokens);
                    continue;
                }
                if tokens.word("COMMENT") {
                    tokens.next();
                    continue;
                }
                if tokens.word("ENABLE") {
                    clauses.status = Some(SchedulerEventStatus::Enabled);
                    continue;
                }
                if tokens.word("DISABLE") {
                    let on_replica = tokens.words(&["ON", "REPLICA"]) || tokens.words(&["ON", "SLAVE"]);
                    clauses.status = Some(if on_replica {
                        SchedulerEventStatus::DisabledOnReplica
                    } else {
                        SchedulerEventStatus::Disabled
                    });
                    continue;
                }
                if tokens.word("DO") {
                    return clauses;
                }
            }
            match tokens.next() {
                Some(Token::Sign('(')) => depth = depth.saturating_add(1),
                Some(Token::Sign(')')) => depth = depth.saturating_sub(1),
                Some(_) => {}
                None => return clauses,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(schema: Option<&str>, name: &str) -> SchedulerEventName {
        SchedulerEventName { schema: schema.map(str::to_owned), name: name.to_owned() }
    }

    fn created(statement: &str) -> (SchedulerEventName, bool, SchedulerEventStatus) {
        match event_statement(statement) {
            Some(SchedulerStatement::Create { event, if_not_exists, status }) => (event, if_not_exists, status),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn create_event_is_seen_with_its_status() {
        use SchedulerEventStatus::{Disabled, DisabledOnReplica, Enabled};
        for (statement, expected) in [
            ("CREATE EVENT tick ON SCHEDULE EVERY 1 HOUR DO SET @a = 1", (name(None, "tick"), false, Enabled)),
            (
                "CREATE DEFINER=`root`@`localhost` EVENT tick ON SCHEDULE EVERY 1 HOUR DISABLE DO DELETE FROM t",
                (name(None, "tick"), false, Disabled),
            ),
            (
                "create definer = 'a b'@db-1.example.org event if not exists `sho``p` . `tick.tock` on schedule at \
                 current_timestamp + interval (select enable from x) day on completion not preserve \
                 disable on slave comment 'ENABLE DO' do begin alter event x enable; end",
                (name(Some("sho`p"), "tick.tock"), true, DisabledOnReplica),
            ),
            (
                "CREATE EVENT t ON SCHEDULE AT (SELECT MAX(d) + INTERVAL (disable) DAY FROM s.x) DO SELECT 1",
                (name(None, "t"), false, Enabled),
            ),
            (
                "/* note */ CREATE /*!50117 DEFINER=CURRENT_USER() */ EVENT tick -- x\n ON SCHEDULE EVERY 1 DAY DISABLE ON \
                 REPLICA DO DROP EVENT y",
                (name(None, "tick"), false, DisabledOnReplica),
            ),
            (
                "CREATE EVENT t ON SCHEDULE EVERY 1 DAY COMMENT 'it''s \\' DISABLE' DO SELECT 1",
                (name(None, "t"), false, Enabled),
            ),
        ] {
            assert_eq!(created(statement), expected, "{statement}");
        }
    }

    #[test]
    fn alter_event_is_seen_with_what_it_changes() {
        let alter = |statement: &str| match event_statement(statement) {
            Some(SchedulerStatement::Alter { event, renamed_to, status }) => (event, renamed_to, status),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            alter("ALTER EVENT shop.tick RENAME TO other.`tock` DISABLE"),
            (name(Some("shop"), "tick"), Some(name(Some("other"), "tock")), Some(SchedulerEventStatus::Disabled))
        );
        assert_eq!(
            alter("ALTER DEFINER=x@'%' EVENT tick ON SCHEDULE EVERY 2 DAY DO BEGIN UPDATE t SET a = 'ENABLE'; END"),
            (name(None, "tick"), None, None)
        );
        assert_eq!(alter("alter event tick enable").2, Some(SchedulerEventStatus::Enabled));
    }

    #[test]
    fn drops_of_events_and_schemas_are_seen() {
        assert_eq!(
            event_statement("DROP EVENT IF EXISTS `a`.b"),
            Some(SchedulerStatement::Drop { event: name(Some("a"), "b") })
        );
        for statement in
            ["DROP DATABASE IF EXISTS `o``dd`", "drop schema `o``dd`", "DROP /*!32312 IF EXISTS*/ SCHEMA `o``dd`"]
        {
            let found = event_statement(statement);
            // An executable comment between DROP and SCHEMA is no statement that a server accepts.
            let expected =
                (!statement.contains("32312")).then(|| SchedulerStatement::DropSchema { schema: "o`dd".to_owned() });
            assert_eq!(found, expected, "{statement}");
        }
    }

    #[test]
    fn other_statements_are_none() {
        for statement in [
            "",
            "CREATE TABLE event (a INT)",
            "CREATE TABLE t SELECT 'CREATE EVENT x'",
            "ALTER TABLE event ENABLE KEYS",
            "DROP TABLE event",
            "INSERT INTO t VALUES ('DROP EVENT x')",
            "CREATE DEFINER=root@localhost TRIGGER event BEFORE INSERT ON t FOR EACH ROW SET @a = 1",
            "CREATE EVENT",
            "DROP EVENT",
        ] {
            assert_eq!(event_statement(statement), None, "{statement}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(?s)(CREATE |ALTER |DROP |DEFINER=|EVENT |DO|`|'|\"|\\\\|/\\*!?|\\*/|-- |#|\n|[a-zé0-9.@=() ]){0,20}") {
            let _ = event_statement(&text);
        }
    }
}
