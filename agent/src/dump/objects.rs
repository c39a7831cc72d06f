//! Views, routines, triggers and events: what has a text of its own.
//!
//! Their texts are stored and shown in the character set of the connection that made them. They are read without
//! conversion and made again under the same character set, collation, `sql_mode` and time zone, so they keep every byte.

use mysql_async::Conn;

use super::error::DumpError;
use super::quote;
use super::schema::name_object;
use super::session::{Record, error_code, record, records};
use super::sql_file::SqlOut;

/// Where no objects of people are.
const NOT_OWN: &str = "NOT IN ('information_schema', 'mysql', 'ndbinfo', 'performance_schema', 'sys')";

/// The context that objects are made in, written only where it changes.
#[derive(Default)]
struct Context {
    schema: Option<String>,
    settings: Option<String>,
    /// The collation that a schema has now, and the one that was set for an object.
    collation: Option<(String, String)>,
}

impl Context {
    /// Makes a schema the current one.
    async fn enter(&mut self, schema: &str, out: &mut SqlOut<'_>) -> Result<(), DumpError> {
        if self.schema.as_deref() != Some(schema) {
            self.leave(out).await?;
            out.push("SET NAMES utf8mb4").await?;
            out.push(format!("USE {}", quote::identifier(schema))).await?;
            self.schema = Some(schema.to_owned());
            self.settings = None;
        }
        Ok(())
    }

    /// Sets the session as it was when the object was made.
    async fn set(&mut self, settings: String, out: &mut SqlOut<'_>) -> Result<(), DumpError> {
        if self.settings.as_deref() != Some(&settings) {
            out.push(format!("SET SESSION {settings}")).await?;
            self.settings = Some(settings);
        }
        Ok(())
    }

    /// Gives the schema the default collation it had when the object was made: texts in it without one have that.
    async fn collate(
        &mut self,
        conn: &mut Conn,
        schema: &str,
        then: &str,
        out: &mut SqlOut<'_>,
    ) -> Result<(), DumpError> {
        let now = match &self.collation {
            Some((now, _)) => now.clone(),
            None => schema_collation(conn, schema).await?,
        };
        let set = self.collation.as_ref().map_or(now.as_str(), |(_, set)| set);
        if set != then {
            self.settings = None;
            out.push("SET NAMES utf8mb4").await?;
            out.push(format!("ALTER DATABASE {} COLLATE {}", quote::identifier(schema), word(then)?)).await?;
        }
        self.collation = Some((now, then.to_owned()));
        Ok(())
    }

    /// Gives the current schema its own collation back.
    async fn leave(&mut self, out: &mut SqlOut<'_>) -> Result<(), DumpError> {
        if let (Some(schema), Some((now, set))) = (&self.schema, self.collation.take())
            && now != set
        {
            out.push("SET NAMES utf8mb4").await?;
            out.push(format!("ALTER DATABASE {} COLLATE {}", quote::identifier(schema), word(&now)?)).await?;
        }
        Ok(())
    }
}

async fn schema_collation(conn: &mut Conn, schema: &str) -> Result<String, DumpError> {
    let sql = format!(
        "SELECT DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = {}",
        quote::text(schema)
    );
    record(conn, "read a schema's collation", sql).await?.text_at(0)
}

/// Functions and procedures; before them libraries, which routines from 9.2 on can use.
pub(super) async fn write_routines(conn: &mut Conn, out: &mut SqlOut<'_>) -> Result<(), DumpError> {
    let mut context = Context::default();
    let libraries = records(
        conn,
        "list libraries",
        format!("SELECT LIBRARY_SCHEMA AS S, LIBRARY_NAME AS N, 'LIBRARY' AS T, '' AS C FROM information_schema.LIBRARIES WHERE LIBRARY_SCHEMA {NOT_OWN} ORDER BY 1, 2"),
    )
    .await;
    let mut routines = match libraries {
        Ok(rows) => rows,
        // Versions before 9.2 have no such table.
        Err(DumpError::Server { .. }) => Vec::new(),
        Err(err) => return Err(err),
    };
    routines.extend(
        records(
            conn,
            "list routines",
            format!(
                "SELECT ROUTINE_SCHEMA AS S, ROUTINE_NAME AS N, ROUTINE_TYPE AS T, ROUTINE_COMMENT AS C FROM information_schema.ROUTINES \
                 WHERE ROUTINE_SCHEMA {NOT_OWN} AND ROUTINE_TYPE IN ('FUNCTION', 'PROCEDURE') ORDER BY 1, 3, 2"
            ),
        )
        .await?,
    );
    for routine in &routines {
        let (schema, name) = (routine.text("S")?, routine.text("N")?);
        let (kind, column) = match routine.required("T")? {
            b"FUNCTION" => ("FUNCTION", "Create Function"),
            b"LIBRARY" => ("LIBRARY", "Create Library"),
            _ => ("PROCEDURE", "Create Procedure"),
        };
        let row =
            record(conn, "SHOW CREATE routine", format!("SHOW CREATE {kind} {}", quote::qualified(&schema, &name)))
                .await
                .map_err(|err| name_object(err, &schema, &name))?;
        context.enter(&schema, out).await?;
        if kind != "LIBRARY" {
            context.collate(conn, &schema, &row.text("Database Collation")?, out).await?;
            context.set(format!("{}, {}", creation(&row)?, sql_mode(&row)?), out).await?;
        }
        out.push(
            recoded(conn, &row, row.required(column)?, &[quote::identifier(&name), shown_text(&routine.text("C")?)])
                .await?,
        )
        .await?;
        let comment = routine.text("C")?;
        if comment.contains('\\') && row.text("sql_mode").is_ok_and(|modes| modes.contains("NO_BACKSLASH_ESCAPES")) {
            // The server shows the comment's backslashes doubled, and under the routine's own mode they stay so.
            out.push("SET NAMES utf8mb4").await?;
            out.push("SET SESSION sql_mode = ''").await?;
            let routine = quote::qualified(&schema, &name);
            out.push(format!("ALTER {kind} {routine} COMMENT {}", quote::plain_text(&comment))).await?;
            context.settings = None;
        }
    }
    context.leave(out).await
}

/// Views, each after the views it stands on as far as the server knows.
pub(super) async fn write_views(conn: &mut Conn, out: &mut SqlOut<'_>) -> Result<(), DumpError> {
    let mut context = Context::default();
    for (schema, name) in views_in_order(conn).await? {
        let shown =
            record(conn, "SHOW CREATE VIEW", format!("SHOW CREATE VIEW {}", quote::qualified(&schema, &name))).await;
        let (settings, text) = match shown {
            Ok(row) => (creation(&row)?, row.required("Create View")?.to_vec()),
            // The server opens the view, and cannot where a function's definer does not exist.
            Err(DumpError::Server { source, .. }) if error_code(&source).is_some() => {
                unopened_view(conn, &schema, &name).await?
            }
            Err(err) => return Err(name_object(err, &schema, &name)),
        };
        context.enter(&schema, out).await?;
        context.set(settings, out).await?;
        out.push(text).await?;
    }
    Ok(())
}

/// A view from what the dictionary says, without opening it. The dictionary does not show the algorithm.
async fn unopened_view(conn: &mut Conn, schema: &str, name: &str) -> Result<(String, Vec<u8>), DumpError> {
    let row = record(
        conn,
        "information_schema.VIEWS",
        format!(
            "SELECT VIEW_DEFINITION, CHECK_OPTION, DEFINER, SECURITY_TYPE, CHARACTER_SET_CLIENT AS character_set_client, \
             COLLATION_CONNECTION AS collation_connection FROM information_schema.VIEWS \
             WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {}",
            quote::text(schema),
            quote::text(name)
        ),
    )
    .await
    .map_err(|err| name_object(err, schema, name))?;
    let definer = row.text("DEFINER")?;
    let (user, host) = definer.rsplit_once('@').unwrap_or((&definer, "%"));
    let check = match row.text("CHECK_OPTION")?.as_str() {
        "NONE" => String::new(),
        kind => format!(" WITH {} CHECK OPTION", word(kind)?),
    };
    let text = format!(
        "CREATE ALGORITHM=UNDEFINED DEFINER={} SQL SECURITY {} VIEW {} AS {}{check}",
        quote::account(user, host),
        word(&row.text("SECURITY_TYPE")?)?,
        quote::identifier(name),
        row.text("VIEW_DEFINITION")?
    );
    let client = row.text("character_set_client")?;
    let text = if client.starts_with("utf8") { text.into_bytes() } else { converted(conn, &text, &client).await? };
    Ok((creation(&row)?, text))
}

/// A text in another character set.
async fn converted(conn: &mut Conn, text: &str, character_set: &str) -> Result<Vec<u8>, DumpError> {
    let sql = format!("SELECT CONVERT({} USING {})", quote::text(text), word(character_set)?);
    Ok(record(conn, "CONVERT", sql).await?.bytes_at(0).unwrap_or_default().to_vec())
}

async fn views_in_order(conn: &mut Conn) -> Result<Vec<(String, String)>, DumpError> {
    let pair = |row: &Record, at: usize| Ok::<_, DumpError>((row.text_at(at)?, row.text_at(at + 1)?));
    let views = records(
        conn,
        "list views",
        format!("SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES WHERE TABLE_TYPE = 'VIEW' AND TABLE_SCHEMA {NOT_OWN} ORDER BY 1, 2"),
    )
    .await?;
    let views: Vec<(String, String)> = views.iter().map(|row| pair(row, 0)).collect::<Result<_, _>>()?;
    let uses = records(
        conn,
        "list what views use",
        format!("SELECT VIEW_SCHEMA, VIEW_NAME, TABLE_SCHEMA, TABLE_NAME FROM information_schema.VIEW_TABLE_USAGE WHERE VIEW_SCHEMA {NOT_OWN}"),
    )
    .await?;
    let uses: Vec<_> = uses.iter().map(|row| Ok((pair(row, 0)?, pair(row, 2)?))).collect::<Result<_, DumpError>>()?;
    Ok(super::order::by_use(views, &uses))
}

/// Triggers, in the order in which those of one table and event run.
pub(super) async fn write_triggers(conn: &mut Conn, out: &mut SqlOut<'_>) -> Result<(), DumpError> {
    let mut context = Context::default();
    let triggers = records(
        conn,
        "list triggers",
        format!(
            "SELECT TRIGGER_SCHEMA AS S, TRIGGER_NAME AS N, EVENT_OBJECT_TABLE AS T, UNIX_TIMESTAMP(CREATED) AS C \
             FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA {NOT_OWN} \
             ORDER BY TRIGGER_SCHEMA, EVENT_OBJECT_TABLE, EVENT_MANIPULATION, ACTION_TIMING, ACTION_ORDER"
        ),
    )
    .await?;
    for trigger in &triggers {
        let (schema, name, table) = (trigger.text("S")?, trigger.text("N")?, trigger.text("T")?);
        let row =
            record(conn, "SHOW CREATE TRIGGER", format!("SHOW CREATE TRIGGER {}", quote::qualified(&schema, &name)))
                .await
                .map_err(|err| name_object(err, &schema, &name))?;
        context.enter(&schema, out).await?;
        context.collate(conn, &schema, &row.text("Database Collation")?, out).await?;
        context.set(format!("{}, {}", creation(&row)?, sql_mode(&row)?), out).await?;
        let text = row.required("SQL Original Statement")?;
        out.push(recoded(conn, &row, text, &[quote::identifier(&name), quote::identifier(&table)]).await?).await?;
    }
    context.leave(out).await
}

/// Events, in their own time zones, made as of the time they were made: an event whose time has passed since then could
/// not be made now.
pub(super) async fn write_events(conn: &mut Conn, out: &mut SqlOut<'_>) -> Result<(), DumpError> {
    let mut context = Context::default();
    let events = records(
        conn,
        "list events",
        format!(
            "SELECT EVENT_SCHEMA AS S, EVENT_NAME AS N, UNIX_TIMESTAMP(CREATED) AS C, EVENT_COMMENT AS M FROM information_schema.EVENTS \
             WHERE EVENT_SCHEMA {NOT_OWN} ORDER BY 1, 2"
        ),
    )
    .await?;
    for event in &events {
        let (schema, name) = (event.text("S")?, event.text("N")?);
        let row = record(conn, "SHOW CREATE EVENT", format!("SHOW CREATE EVENT {}", quote::qualified(&schema, &name)))
            .await
            .map_err(|err| name_object(err, &schema, &name))?;
        context.enter(&schema, out).await?;
        context.collate(conn, &schema, &row.text("Database Collation")?, out).await?;
        let zone = quote::plain_text(&row.text("time_zone")?);
        let created = event.text("C")?;
        let created =
            created.split('.').next().filter(|digits| digits.bytes().all(|b| b.is_ascii_digit())).unwrap_or("1");
        let settings = format!("{}, {}, time_zone = {zone}, timestamp = {created}", creation(&row)?, sql_mode(&row)?);
        context.set(settings, out).await?;
        out.push(
            recoded(
                conn,
                &row,
                row.required("Create Event")?,
                &[quote::identifier(&name), shown_text(&event.text("M")?)],
            )
            .await?,
        )
        .await?;
    }
    context.leave(out).await
}

/// A comment as the server shows it in `SHOW CREATE` (`append_unescaped` in its sources).
fn shown_text(value: &str) -> String {
    let mut shown = String::from("'");
    for c in value.chars() {
        match c {
            '\0' => shown.push_str("\\0"),
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\\' => shown.push_str("\\\\"),
            '\'' => shown.push_str("''"),
            c => shown.push(c),
        }
    }
    shown.push('\'');
    shown
}

/// The character set and collation of the connection that made the object.
fn creation(row: &Record) -> Result<String, DumpError> {
    let (client, collation) = (row.text("character_set_client")?, row.text("collation_connection")?);
    Ok(format!("character_set_client = {}, collation_connection = {}", word(&client)?, word(&collation)?))
}

fn sql_mode(row: &Record) -> Result<String, DumpError> {
    let modes = row.text("sql_mode")?;
    modes.split(',').filter(|mode| !mode.is_empty()).try_for_each(|mode| word(mode).map(drop))?;
    Ok(format!("sql_mode = '{modes}'"))
}

/// A name of the server's own, which needs no quotes.
fn word(text: &str) -> Result<&str, DumpError> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        Ok(text)
    } else {
        Err(DumpError::Answer {
            statement: "SHOW CREATE",
            what: "an odd character set, collation or SQL mode".to_owned(),
        })
    }
}

/// The server writes the names and the comment in the head of a routine, trigger or event in UTF-8 whatever the rest is
/// in. They are brought into the statement's character set, in the order in which they stand in the head.
async fn recoded(conn: &mut Conn, row: &Record, text: &[u8], head: &[String]) -> Result<Vec<u8>, DumpError> {
    let client = match row.bytes("character_set_client") {
        Some(_) => row.text("character_set_client")?,
        None => return Ok(text.to_vec()),
    };
    let mut recoded = text.to_vec();
    if client.starts_with("utf8") || client == "binary" {
        return Ok(recoded);
    }
    let mut from = 0;
    for quoted in head.iter().filter(|quoted| !quoted.is_ascii()) {
        let rest = recoded.get(from..).unwrap_or_default();
        let Some(at) = rest.windows(quoted.len()).position(|window| window == quoted.as_bytes()) else { continue };
        let converted = converted(conn, quoted, &client).await?;
        let start = from + at;
        recoded.splice(start..start + quoted.len(), converted.iter().copied());
        from = start + converted.len();
    }
    Ok(recoded)
}
