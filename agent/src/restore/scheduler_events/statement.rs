//! What a statement does to events of the scheduler: CREATE, ALTER, DROP EVENT, and DROP DATABASE.
//!
//! Only the clauses before `DO` are read, by a lexer that knows strings, quoted names and comments.

use std::iter::Peekable;
use std::vec::IntoIter;

/// An event of the scheduler: schema and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EventName {
    pub(crate) schema: String,
    pub(crate) name: String,
}

/// What an event does when its time comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventState {
    /// It runs.
    Enabled,
    /// It does not.
    Disabled,
    /// It does not, because this server is a replica.
    ReplicaSideDisabled,
}

/// What a statement does to events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EventChange {
    /// CREATE EVENT. `if_absent`: an existing one stays as it is.
    Create { event: EventName, state: EventState, if_absent: bool },
    /// ALTER EVENT, with a new name and a new state if the statement has them.
    Alter { event: EventName, renamed: Option<EventName>, state: Option<EventState> },
    /// DROP EVENT.
    Drop(EventName),
    /// DROP DATABASE: all events of a schema.
    DropSchema(String),
}

/// Statements that do this to events are short up to `DO`; the lexer stops there.
const TOKENS_MAX: usize = 10_000;

impl EventChange {
    /// Reads a statement of the binlog; `None` when it is about something else. `schema` is the current one.
    pub(crate) fn read(statement: &[u8], schema: &str) -> Option<Self> {
        let text = String::from_utf8_lossy(statement);
        let mut tokens = Tokens::of(&text)?;
        match tokens.word()?.as_str() {
            "CREATE" => {
                tokens.pass_definer();
                tokens.expect("EVENT")?;
                let if_absent = tokens.pass("IF");
                if if_absent {
                    tokens.expect("NOT")?;
                    tokens.expect("EXISTS")?;
                }
                let event = tokens.event_name(schema)?;
                let clauses = tokens.clauses(schema);
                Some(Self::Create { event, state: clauses.state.unwrap_or(EventState::Enabled), if_absent })
            }
            "ALTER" => {
                tokens.pass_definer();
                tokens.expect("EVENT")?;
                let event = tokens.event_name(schema)?;
                let clauses = tokens.clauses(schema);
                Some(Self::Alter { event, renamed: clauses.renamed, state: clauses.state })
            }
            "DROP" => {
                let kind = tokens.word()?;
                if tokens.pass("IF") {
                    tokens.expect("EXISTS")?;
                }
                match kind.as_str() {
                    "EVENT" => Some(Self::Drop(tokens.event_name(schema)?)),
                    "DATABASE" | "SCHEMA" => Some(Self::DropSchema(tokens.name()?)),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A bare word, as written.
    Word(String),
    /// A quoted name or a string: both `"a"` and `` `a` `` may be names.
    Quoted(String),
    Symbol(char),
}

#[derive(Default)]
struct Clauses {
    state: Option<EventState>,
    renamed: Option<EventName>,
}

struct Tokens(Peekable<IntoIter<Token>>);

impl Tokens {
    /// The tokens of a statement that may be about events, up to its `DO`.
    fn of(text: &str) -> Option<Self> {
        let mut lexer = Lexer { chars: text.chars().peekable(), executable: false };
        let mut tokens = Vec::new();
        while let Some(token) = lexer.next() {
            let word = |text: &str| matches!(&token, Token::Word(word) if word.eq_ignore_ascii_case(text));
            match tokens.len() {
                0 if !["CREATE", "ALTER", "DROP"].into_iter().any(word) => return None,
                1 if !["EVENT", "DEFINER", "DATABASE", "SCHEMA"].into_iter().any(word) => return None,
                TOKENS_MAX => break,
                at if at > 1 && word("DO") => break,
                _ => tokens.push(token),
            }
        }
        Some(Self(tokens.into_iter().peekable()))
    }

    /// The next token if it is a word, in upper case.
    fn word(&mut self) -> Option<String> {
        match self.0.next()? {
            Token::Word(word) => Some(word.to_ascii_uppercase()),
            Token::Quoted(_) | Token::Symbol(_) => None,
        }
    }

    fn expect(&mut self, word: &str) -> Option<()> {
        self.pass(word).then_some(())
    }

    /// Passes over a word if it is the next token.
    fn pass(&mut self, word: &str) -> bool {
        self.0.next_if(|token| matches!(token, Token::Word(text) if text.eq_ignore_ascii_case(word))).is_some()
    }

    fn pass_symbol(&mut self, symbol: char) -> bool {
        self.0.next_if(|token| *token == Token::Symbol(symbol)).is_some()
    }

    /// `DEFINER = user@host`, or `CURRENT_USER()`.
    fn pass_definer(&mut self) {
        if self.pass("DEFINER") {
            self.pass_symbol('=');
            self.0.next();
            if self.pass_symbol('@') {
                self.0.next();
            }
            if self.pass_symbol('(') {
                self.pass_symbol(')');
            }
        }
    }

    fn name(&mut self) -> Option<String> {
        match self.0.next()? {
            Token::Word(name) | Token::Quoted(name) => Some(name),
            Token::Symbol(_) => None,
        }
    }

    fn event_name(&mut self, schema: &str) -> Option<EventName> {
        let first = self.name()?;
        if self.pass_symbol('.') {
            return Some(EventName { schema: first, name: self.name()? });
        }
        Some(EventName { schema: schema.to_owned(), name: first })
    }

    /// The clauses between the name and `DO`.
    fn clauses(&mut self, schema: &str) -> Clauses {
        let mut clauses = Clauses::default();
        while let Some(token) = self.0.next() {
            let Token::Word(word) = token else { continue };
            match word.to_ascii_uppercase().as_str() {
                "ENABLE" => clauses.state = Some(EventState::Enabled),
                "DISABLE" => {
                    let replica = self.pass("ON") && (self.pass("SLAVE") || self.pass("REPLICA"));
                    let state = if replica { EventState::ReplicaSideDisabled } else { EventState::Disabled };
                    clauses.state = Some(state);
                }
                "RENAME" if self.pass("TO") => clauses.renamed = self.event_name(schema),
                _ => {}
            }
        }
        clauses
    }
}

struct Lexer<'a> {
    chars: Peekable<std::str::Chars<'a>>,
    /// Inside `/*! … */`, whose text is a part of the statement.
    executable: bool,
}

impl Lexer<'_> {
    fn next(&mut self) -> Option<Token> {
        loop {
            let c = self.chars.next()?;
            match c {
                _ if c.is_whitespace() => {}
                '#' => self.skip_line(),
                '-' if self.starts_line_comment() => self.skip_line(),
                '/' if self.chars.peek() == Some(&'*') => {
                    self.chars.next();
                    if self.chars.next_if_eq(&'!').is_some() {
                        while self.chars.next_if(char::is_ascii_digit).is_some() {}
                        self.executable = true;
                    } else {
                        self.skip_comment();
                    }
                }
                '*' if self.executable && self.chars.peek() == Some(&'/') => {
                    self.chars.next();
                    self.executable = false;
                }
                '\'' | '"' | '`' => return Some(Token::Quoted(self.quoted(c))),
                _ if is_word(c) => {
                    let mut word = String::from(c);
                    while let Some(c) = self.chars.next_if(|c| is_word(*c)) {
                        word.push(c);
                    }
                    return Some(Token::Word(word));
                }
                _ => return Some(Token::Symbol(c)),
            }
        }
    }

    /// After one dash: another one and a space or control character, or the end.
    fn starts_line_comment(&self) -> bool {
        let mut ahead = self.chars.clone();
        ahead.next() == Some('-') && ahead.next().is_none_or(|c| c.is_whitespace() || c.is_control())
    }

    fn skip_line(&mut self) {
        while self.chars.next().is_some_and(|c| c != '\n') {}
    }

    fn skip_comment(&mut self) {
        let mut previous = ' ';
        for c in self.chars.by_ref() {
            if previous == '*' && c == '/' {
                return;
            }
            previous = c;
        }
    }

    /// The text up to the closing quote; a doubled quote is one, and a backslash escapes in strings.
    fn quoted(&mut self, quote: char) -> String {
        let mut text = String::new();
        while let Some(c) = self.chars.next() {
            if c == '\\' && quote != '`' {
                text.extend(self.chars.next());
            } else if c != quote {
                text.push(c);
            } else if self.chars.next_if_eq(&quote).is_some() {
                text.push(quote);
            } else {
                break;
            }
        }
        text
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<EventChange> {
        EventChange::read(text.as_bytes(), "app")
    }

    fn event(schema: &str, name: &str) -> EventName {
        EventName { schema: schema.to_owned(), name: name.to_owned() }
    }

    #[test]
    fn create_is_enabled_unless_it_says_otherwise() {
        let created = |text: &str| match read(text) {
            Some(EventChange::Create { event, state, if_absent: false }) => (event, state),
            other => panic!("{text}: {other:?}"),
        };
        let tick = event("app", "tick");
        let text = "CREATE DEFINER=`root`@`localhost` EVENT tick ON SCHEDULE EVERY 1 SECOND DO SELECT 'DISABLE'";
        assert_eq!(created(text), (tick.clone(), EventState::Enabled));
        let text = "create event `o``dd`.`DO` on schedule every 1 second on completion not preserve disable comment \
                    'ENABLE it''s \\' DO' do begin alter event x enable; end";
        assert_eq!(created(text), (event("o`dd", "DO"), EventState::Disabled));
        let text = "/*!50106 CREATE*/ /*!50117 DEFINER=event@'%'*/ /*!50106 EVENT tick ON SCHEDULE AT now() DISABLE ON \
                    SLAVE DO SELECT 1 */";
        assert_eq!(created(text), (tick.clone(), EventState::ReplicaSideDisabled));
        let text = "CREATE /* DROP */ DEFINER=CURRENT_USER() EVENT tick -- DISABLE\n ON SCHEDULE EVERY 2 DAY # DISABLE\n DO SELECT 1";
        assert_eq!(created(text), (tick, EventState::Enabled));
    }

    #[test]
    fn alter_keeps_a_state_that_it_does_not_name() {
        let text = "ALTER DEFINER=`a`@`b` EVENT tick COMMENT 'DISABLE'";
        let expected = EventChange::Alter { event: event("app", "tick"), renamed: None, state: None };
        assert_eq!(read(text), Some(expected));
        let text = "ALTER EVENT tick RENAME TO other.tock DISABLE ON REPLICA";
        let expected = EventChange::Alter {
            event: event("app", "tick"),
            renamed: Some(event("other", "tock")),
            state: Some(EventState::ReplicaSideDisabled),
        };
        assert_eq!(read(text), Some(expected));
    }

    #[test]
    fn drops_are_read() {
        assert_eq!(read("DROP EVENT IF EXISTS b.tick"), Some(EventChange::Drop(event("b", "tick"))));
        assert_eq!(read("drop schema `a-b`"), Some(EventChange::DropSchema("a-b".to_owned())));
        assert_eq!(read("DROP DATABASE IF EXISTS x"), Some(EventChange::DropSchema("x".to_owned())));
    }

    #[test]
    fn other_statements_are_not_about_events() {
        for text in [
            "",
            "BEGIN",
            "DROP TABLE `event`",
            "CREATE TABLE event (a int)",
            "DROP EVENT",
            "ALTER EVENT 'a",
            "CREATE DEFINER=x PROCEDURE event() SELECT 1",
            "INSERT INTO a VALUES ('CREATE EVENT e')",
        ] {
            let read = read(text);
            assert!(matches!(read, None | Some(EventChange::Alter { .. })), "{text}: {read:?}");
        }
    }

    #[test]
    fn if_not_exists_is_seen() {
        let text = "CREATE EVENT IF NOT EXISTS tick ON SCHEDULE EVERY 1 SECOND DO SELECT 1";
        assert!(matches!(read(text), Some(EventChange::Create { if_absent: true, .. })));
    }
}
