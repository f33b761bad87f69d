//! The statements: each changes rows and journals them at once, so the two cannot differ.

use serde_json::Value as Json;
use tokio_postgres::{Client, Statement};

use crate::Result;
use crate::journal::Did;
use crate::tables::{TABLES, Table};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Insert,
    /// All columns.
    Update,
    /// All but the large ones: their values stay where they are, and the log does not hold them.
    Touch,
    Delete,
    Rekey,
}

impl Verb {
    const ALL: [Verb; 5] = [Verb::Insert, Verb::Update, Verb::Touch, Verb::Delete, Verb::Rekey];

    fn did(self) -> Did {
        match self {
            Verb::Insert => Did::Insert,
            Verb::Update | Verb::Touch => Did::Update,
            Verb::Delete => Did::Delete,
            Verb::Rekey => Did::Rekey,
        }
    }
}

/// Prepared for one connection, by table and verb.
pub struct Statements(Vec<[Statement; 5]>);

impl Statements {
    pub async fn prepare(client: &Client) -> Result<Statements> {
        let mut all = Vec::new();
        for table in &TABLES {
            let [a, b, c, d, e] = Verb::ALL.map(|verb| sql(table, verb));
            all.push([
                client.prepare(&a).await?,
                client.prepare(&b).await?,
                client.prepare(&c).await?,
                client.prepare(&d).await?,
                client.prepare(&e).await?,
            ]);
        }
        Ok(Statements(all))
    }

    /// Takes all rows of a table away.
    pub async fn truncate(&self, client: &Client, table: usize, txid: &str) -> Result<()> {
        let (name, code) = (TABLES[table].name, Did::Truncate.code());
        client.batch_execute(&format!("TRUNCATE ledger.{name}")).await?;
        // Once the lock is held: every change before it has a lower number, every one after it a higher.
        let sql = format!(
            "INSERT INTO ledger.journal (seq, txid, xid, tbl, op, key, payload) \
             SELECT nextval('ledger.change'), ($1::text)::uuid, pg_current_xact_id()::text::bigint, '{name}', '{code}', '', ''"
        );
        client.execute(&sql, &[&txid]).await?;
        Ok(())
    }

    /// Applies the verb to all rows; every row must be hit, or the writer's picture is wrong.
    pub async fn run(
        &self,
        client: &Client,
        table: usize,
        verb: Verb,
        rows: Vec<Json>,
        txid: &str,
    ) -> Result<u64> {
        let wanted = u64::try_from(rows.len())?;
        let rows = Json::Array(rows).to_string();
        let hit = client.execute(&self.0[table][verb as usize], &[&rows, &txid]).await?;
        if hit != wanted {
            let name = TABLES[table].name;
            return Err(format!("{verb:?} of {wanted} rows of {name} hit {hit}").into());
        }
        Ok(hit)
    }
}

/// `$1` is a JSON array of rows, `$2` the transaction's uuid.
fn sql(table: &Table, verb: Verb) -> String {
    let name = table.name;
    let key_matches = join(table.key_columns().iter().map(|c| format!("t.{0} = i.{0}", c.name)), " AND ");
    let input = format!("json_populate_recordset(NULL::ledger.{name}, ($1::text)::json)");
    let stamps = "seq = nextval('ledger.change'), txid = ($2::text)::uuid";
    let (changed, key, new_key, seq) = match verb {
        Verb::Insert => {
            let columns = join(table.columns.iter().map(|c| c.name.to_owned()), ", ");
            let values = join(table.columns.iter().map(|c| value(c.name)), ", ");
            let insert =
                format!("INSERT INTO ledger.{name} ({columns}) SELECT {values} FROM {input} i RETURNING *");
            (insert, table.key_sql("w."), "NULL".to_owned(), "w.seq")
        }
        Verb::Update | Verb::Touch => {
            let fixed = |name: &str| table.column_index(name).is_none_or(|i| i < table.keys);
            let set = table.columns.iter().filter(|c| !fixed(c.name) && c.name != "seq" && c.name != "txid");
            let set = set.filter(|c| verb == Verb::Update || !c.toasted);
            let set = join(set.map(|c| format!("{0} = i.{0}", c.name)), ", ");
            let update = format!(
                "UPDATE ledger.{name} t SET {stamps}, {set} FROM {input} i WHERE {key_matches} RETURNING t.*"
            );
            (update, table.key_sql("w."), "NULL".to_owned(), "w.seq")
        }
        Verb::Delete => {
            let delete =
                format!("DELETE FROM ledger.{name} t USING {input} i WHERE {key_matches} RETURNING t.*");
            (delete, table.key_sql("w."), "NULL".to_owned(), "nextval('ledger.change')")
        }
        Verb::Rekey => {
            let keys = table.key_columns();
            let typed = keys.iter().map(|c| {
                let kind = c.declared.trim_end_matches(" not null");
                format!("{0} {kind}, new_{0} {kind}", c.name)
            });
            let input = format!("json_to_recordset(($1::text)::json) AS i({})", join(typed, ", "));
            let set = join(keys.iter().map(|c| format!("{0} = i.new_{0}", c.name)), ", ");
            let old = join(keys.iter().map(|c| format!("i.{0} AS old_{0}", c.name)), ", ");
            let update = format!(
                "UPDATE ledger.{name} t SET {stamps}, {set} FROM {input} WHERE {key_matches} RETURNING {old}, t.*"
            );
            (update, table.key_sql("w.old_"), table.key_sql("w."), "w.seq")
        }
    };
    format!(
        "WITH w AS ({changed}) \
         INSERT INTO ledger.journal (seq, txid, xid, tbl, op, key, new_key, payload) \
         SELECT {seq}, ($2::text)::uuid, pg_current_xact_id()::text::bigint, '{name}', '{}', {key}, {new_key}, {} FROM w",
        verb.did().code(),
        table.payload_sql("w"),
    )
}

fn value(column: &str) -> String {
    match column {
        "seq" => "nextval('ledger.change')".to_owned(),
        "txid" => "($2::text)::uuid".to_owned(),
        other => format!("i.{other}"),
    }
}

fn join(parts: impl Iterator<Item = String>, separator: &str) -> String {
    parts.collect::<Vec<_>>().join(separator)
}
