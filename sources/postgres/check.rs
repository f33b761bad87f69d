//! `millrace check`: proves every precondition on the server's side and changes nothing. Start at `check`.

use millrace_core::error::{Error, Kind, Result};
use millrace_core::report::Report;
use millrace_core::route::rule::FirstStart;
use tokio_postgres::Client;

use crate::catalog::{ColumnInfo, Identity, TableInfo};
use crate::config::{Server, Settings, SslMode};
use crate::publication::{self, Plan, Publication, Wanted};
use crate::server::{self, CONDITIONS, ServerFacts};
use crate::slot::{self, Slot};
use crate::snapshot::outbox;
use crate::tables::quoted;
use crate::{control, errors, failover, janitor};

/// What was found, one line a precondition; a server that cannot be reached is a finding too.
pub async fn check(settings: &Settings) -> Result<Report> {
    let mut report = Report::default();
    let place = format!("postgres {}", settings.place());
    match control::connect(settings).await {
        Err(error) => failed(&mut report, &place, &error),
        Ok(control) => {
            report.pass(place, "connected");
            encryption(&mut report, settings, &control.server);
            findings(&mut report, &control.client, settings).await?;
        }
    }
    Ok(report)
}

fn encryption(report: &mut Report, settings: &Settings, server: &Server) {
    let subject = "TLS";
    match settings.tls.mode {
        _ if server.is_local() => report.pass(subject, format!("{server} is on this machine")),
        SslMode::VerifyFull => report.pass(subject, "the server proved its name"),
        SslMode::Disable | SslMode::Prefer | SslMode::Require | SslMode::VerifyCa => report.warn(
            subject,
            "anybody between here and the server can pass for it",
            "sslmode = \"verify-full\", and sslrootcert where the authority is your own",
        ),
    }
}

async fn findings(report: &mut Report, client: &Client, settings: &Settings) -> Result<()> {
    let facts = server::facts(client).await?;
    for condition in CONDITIONS {
        match condition(&facts, settings) {
            Ok(held) => report.pass(held.subject, held.detail),
            Err(lack) => report.fail(lack.subject, lack.message, lack.hint),
        }
    }
    minor_release(report, &facts);
    let mut wanted = publication::wanted(client, settings).await?;
    let found = publication::read(client, &settings.publication, &facts).await?;
    publication::keep_captured(settings, found.as_ref(), &mut wanted.tables);
    let (all, of_signals) = publication::published(client, settings, &wanted.tables).await?;
    tables(report, &wanted, found.as_ref(), settings);
    for missing in of_signals {
        report.fail(
            format!("signal table {missing}"),
            "does not exist",
            format!("CREATE TABLE {missing} (id varchar(42) PRIMARY KEY, type varchar(32) NOT NULL, data varchar(2048));"),
        );
    }
    let all = Wanted { tables: all, ..wanted.clone() };
    published(report, found.as_ref(), &all, &facts, settings);
    for table in &wanted.tables {
        if let Some(FirstStart::Drain { order_by }) = settings.outbox(&table.name()) {
            let subject = format!("events of {}", table.name());
            match outbox::order(client, table, order_by).await {
                Ok(order) => report.pass(subject, format!("are read in the order of {}", order.join(", "))),
                Err(error) => failed(report, &subject, &error),
            }
        }
    }
    if settings.snapshot.rows || settings.drains() || !settings.reselected.is_off() {
        readable(report, client, &wanted, settings).await?;
    }
    janitor::check(report, client, &wanted.tables, settings).await?;
    let found = slot::read(client, &settings.slot).await?;
    of_slot(report, found.as_ref(), settings);
    failover::check(report, client, settings, &facts, found.as_ref()).await?;
    room(report, found.as_ref(), &facts);
    Ok(())
}

/// The minor release of each major one from which on all transactions under way learn of a changed publication.
const MENDED: [(u32, u32); 4] = [(14, 18), (15, 13), (16, 9), (17, 5)];

/// Older ones decode what follows a change of the publication as if there had been none, for as long as a
/// transaction is under way that was there before it.
fn minor_release(report: &mut Report, facts: &ServerFacts) {
    let (major, minor) = (facts.version / 10_000, facts.version % 10_000);
    let mended = MENDED.iter().find(|(of, _)| *of == major).map_or(0, |(_, mended)| *mended);
    if minor < mended {
        report.warn(
            "minor release",
            format!("PostgreSQL {major}.{minor} may lose changes of a table that joins a publication in use"),
            format!(
                "upgrade to {major}.{mended} or later; until then add tables while nobody writes to them"
            ),
        );
    }
}

fn failed(report: &mut Report, subject: &str, error: &Error) {
    report.fail(subject, error.to_string(), error.hint_text().unwrap_or_default());
}

fn tables(report: &mut Report, wanted: &Wanted, found: Option<&Publication>, settings: &Settings) {
    for missing in &wanted.missing {
        report.fail(
            format!("table {missing}"),
            format!("does not exist in database {}", settings.database),
            "create it, or correct tables in [source.postgres]",
        );
    }
    for table in &wanted.tables {
        let subject = format!("table {}", table.name());
        let is_published = found.is_some_and(|found| found.sends(table));
        let problem = publication::replicable(table)
            .and_then(|()| publication::identified(table, &settings.publication));
        match problem {
            Ok(()) if table.key().is_empty() => report.warn(
                subject,
                "has no key: its events cannot be compacted, nor kept in order by key",
                format!("ALTER TABLE {} ADD PRIMARY KEY (...);", table.name().sql()),
            ),
            Ok(()) => report.pass(subject, format!("keyed by {}{}", table.key().join(", "), toasted(table))),
            // The harm is done, or rows are only ever inserted.
            Err(_) if is_published && !table.has_identity() => report.warn(
                subject,
                "has neither a primary key nor a replica identity: UPDATE and DELETE on it are refused by the server",
                format!("ALTER TABLE {} REPLICA IDENTITY FULL;", table.name().sql()),
            ),
            Err(error) => failed(report, &subject, &error),
        }
        let generated = names(table, |column| column.generated);
        if !generated.is_empty() {
            report.warn(
                format!("table {}", table.name()),
                format!("generated columns are not in its events, because Postgres does not send them: {generated}"),
                "let consumers compute them, or make them ordinary columns that a trigger fills",
            );
        }
    }
}

/// Which values an update may leave out, and what would send them.
fn toasted(table: &TableInfo) -> String {
    let large = names(table, |column| column.is_toasted && !column.generated);
    if large.is_empty() || table.identity == Identity::Full {
        return String::new();
    }
    format!(
        "; an update that leaves a large value alone does not send it (REPLICA IDENTITY FULL does): {large}"
    )
}

fn names(table: &TableInfo, wanted: impl Fn(&ColumnInfo) -> bool) -> String {
    let names = table.columns.iter().filter(|column| wanted(column)).map(|column| column.name.as_str());
    names.collect::<Vec<_>>().join(", ")
}

fn published(
    report: &mut Report,
    found: Option<&Publication>,
    wanted: &Wanted,
    facts: &ServerFacts,
    settings: &Settings,
) {
    let name = &settings.publication;
    let subject = format!("publication {name}");
    if wanted.tables.is_empty() {
        if settings.only_published && wanted.missing.is_empty() {
            report.fail(subject, "sends no table that the file asks for", "add the tables to it");
        }
        return;
    }
    let Plan::Run(statements) = publication::plan(name, found, &wanted.tables) else {
        return report.pass(subject, "sends what is asked for");
    };
    let typed = format!("{};", statements.join("; "));
    let lack = if found.is_some() { "does not send what is asked for" } else { "does not exist" };
    if !publication::may_change(settings, found) {
        report.fail(subject, publication::lack(settings, found.is_some()), typed);
    } else if facts.in_recovery {
        report.fail(subject, format!("{lack}, and a standby cannot change it"), typed);
    } else if found.is_none() && !facts.can_create {
        report.fail(subject, format!("{lack}, and {} may not create it", settings.user), typed);
    } else {
        report.pass(subject, format!("{lack} yet; run will do: {typed}"));
    }
}

/// Rows are read as any client reads them, and changes are not: a role that streams may lack the right.
async fn readable(report: &mut Report, client: &Client, wanted: &Wanted, settings: &Settings) -> Result<()> {
    let sql = "SELECT c.oid, has_table_privilege(c.oid, 'SELECT'), row_security_active(c.oid) \
               FROM pg_class c WHERE c.oid = ANY($1)";
    let what = "cannot look up who may read the tables";
    let oids: Vec<u32> = wanted.tables.iter().map(|table| table.oid).collect();
    let rows = client.query(sql, &[&oids]).await.map_err(|error| errors::query(what, error))?;
    for row in rows {
        let column = |index| row.try_get(index).map_err(|error| errors::query(what, error));
        let (may_read, is_filtered): (bool, bool) = (column(1)?, column(2)?);
        let oid: u32 = row.try_get(0).map_err(|error| errors::query(what, error))?;
        let Some(table) = wanted.tables.iter().find(|table| table.oid == oid) else { continue };
        let (subject, user) = (format!("rows of {}", table.name()), quoted(&settings.user));
        if !may_read {
            let grant = format!("GRANT SELECT ON {} TO {user};", table.name().sql());
            report.warn(subject, "may not be read: what has to read them will stop the connector", grant);
        } else if is_filtered {
            let bypass = format!("ALTER ROLE {user} BYPASSRLS;");
            report.warn(
                subject,
                "are hidden in part by row security: what has to read them will stop the connector",
                bypass,
            );
        }
    }
    Ok(())
}

fn of_slot(report: &mut Report, found: Option<&Slot>, settings: &Settings) {
    let subject = format!("slot {}", settings.slot);
    let Some(slot) = found else {
        return if settings.create_slot {
            report.pass(subject, "does not exist yet; run will create it");
        } else {
            let hint = format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput');", settings.slot);
            report.fail(subject, "does not exist, and create_slot is false", hint);
        };
    };
    match slot.usable(settings).and_then(|()| slot.free(None)) {
        Err(error) if error.kind() == Kind::Transient => {
            report.warn(subject, error.to_string(), error.hint_text().unwrap_or_default());
        }
        Err(error) => failed(report, &subject, &error),
        Ok(()) => {
            let kept = slot.retained.unwrap_or(0);
            match slot.wal_status.as_deref() {
                Some("unreserved") => report.warn(
                    subject,
                    format!("keeps {kept} bytes of log and is about to lose them"),
                    "run the connector, or raise max_slot_wal_keep_size",
                ),
                _ => report.pass(subject, format!("free, keeps {kept} bytes of log")),
            }
        }
    }
}

fn room(report: &mut Report, slot: Option<&Slot>, facts: &ServerFacts) {
    let seats = |used: u32, max: u32| format!("{used} of {max} in use");
    let slots = seats(facts.slots_used, facts.slots_max);
    if slot.is_some() || facts.slots_used < facts.slots_max {
        report.pass("replication slots", slots);
    } else {
        let hint = "raise max_replication_slots and restart the server, or drop a slot that nobody reads";
        report.fail("replication slots", slots, hint);
    }
    let walsenders = seats(facts.walsenders_used, facts.walsenders_max);
    if facts.walsenders_used < facts.walsenders_max || slot.is_some_and(|slot| slot.active) {
        report.pass("walsenders", walsenders);
    } else {
        report.fail("walsenders", walsenders, "raise max_wal_senders and restart the server");
    }
}
