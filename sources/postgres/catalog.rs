//! Reads tables and types from the server's catalog, all that are asked for in one query. Start at `describe`.
//!
//! The catalog is the one of *now*: it may be newer than the rows that are being read, which is why
//! `relation::build` lets the stream's own description of a table win.

use millrace_core::error::{Error, Result};
use millrace_core::relation::Relation;
use serde::Deserialize;
use tokio_postgres::{Client, Row, Statement};

use crate::config::Partitions;
use crate::errors;
use crate::pgoutput::RelationMessage;
use crate::relation::{self, Origin};
use crate::tables::{TableName, TablePattern};
use crate::types::{PgType, Types, is_builtin};

/// A table as the catalog knows it now.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TableInfo {
    pub oid: u32,
    pub schema: String,
    pub table: String,
    pub form: Form,
    /// An unlogged table is not in the log.
    pub is_logged: bool,
    pub identity: Identity,
    /// The partitioned table that this one is a part of.
    pub root: Option<u32>,
    /// In the table's order, without dropped ones.
    pub columns: Vec<ColumnInfo>,
    /// Unique indexes that a key can be made of: the primary key first, then by name.
    pub indexes: Vec<IndexInfo>,
}

/// `pg_class.relkind`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Form {
    #[serde(rename = "r")]
    Table,
    /// The root of a partitioned table, or a branch of it.
    #[serde(rename = "p")]
    Partitioned,
    /// Views, foreign tables, sequences: nothing that is replicated.
    #[serde(other)]
    Other,
}

/// `pg_class.relreplident`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Identity {
    #[serde(rename = "d")]
    Default,
    #[serde(rename = "n")]
    Nothing,
    #[serde(rename = "f")]
    Full,
    #[serde(rename = "i")]
    Index,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ColumnInfo {
    pub number: i16,
    pub name: String,
    pub type_oid: u32,
    pub typmod: i32,
    pub not_null: bool,
    /// Not in the stream.
    pub generated: bool,
    /// A large value may lie outside of its row, and is then not sent again by updates that leave it alone.
    pub is_toasted: bool,
    /// As `pg_get_expr` prints it.
    pub default: Option<String>,
    pub comment: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct IndexInfo {
    pub name: String,
    pub is_primary: bool,
    /// The one that REPLICA IDENTITY USING INDEX names.
    pub is_identity: bool,
    pub not_null: bool,
    /// Names in the key's own order.
    pub columns: Vec<String>,
}

impl TableInfo {
    pub fn name(&self) -> TableName {
        TableName::new(&self.schema, &self.table)
    }

    pub fn primary_key(&self) -> Option<&IndexInfo> {
        self.indexes.iter().find(|index| index.is_primary)
    }

    /// The index whose columns are sent of old rows.
    pub fn identity_index(&self) -> Option<&IndexInfo> {
        match self.identity {
            Identity::Default => self.primary_key(),
            Identity::Index => self.indexes.iter().find(|index| index.is_identity),
            Identity::Full | Identity::Nothing => None,
        }
    }

    /// The columns that events are keyed by, in the key's order; empty where there is no key.
    ///
    /// Only an identity index is in every old row, so it comes before a primary key that is not.
    pub fn key(&self) -> &[String] {
        let chosen = match self.identity {
            Identity::Index => self.identity_index(),
            Identity::Default | Identity::Full | Identity::Nothing => None,
        };
        let unique = || self.indexes.iter().find(|index| index.not_null);
        chosen.or_else(|| self.primary_key()).or_else(unique).map_or(&[], |index| &index.columns)
    }

    /// Without one, the server refuses every UPDATE and DELETE on the table once it is published.
    pub fn has_identity(&self) -> bool {
        self.identity == Identity::Full || self.identity_index().is_some()
    }
}

/// What a table is. Every part of it as one JSON text a table: the same for all server versions, and no
/// second query a column.
const DESCRIBE: &str = "\
SELECT json_build_object(
  'oid', c.oid::bigint, 'schema', n.nspname, 'table', c.relname, 'form', c.relkind,
  'is_logged', c.relpersistence = 'p', 'identity', c.relreplident,
  'root', CASE WHEN c.relispartition THEN pg_partition_root(c.oid)::oid::bigint END,
  'columns', (
    SELECT coalesce(json_agg(json_build_object(
      'number', a.attnum, 'name', a.attname, 'type_oid', a.atttypid::bigint, 'typmod', a.atttypmod,
      'not_null', a.attnotnull OR (t.typtype = 'd' AND t.typnotnull), 'generated', a.attgenerated <> '',
      'is_toasted', a.attstorage IN ('x', 'e'), 'comment', col_description(c.oid, a.attnum),
      'default', CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END) ORDER BY a.attnum), '[]')
    FROM pg_attribute a
    JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  'indexes', (
    SELECT coalesce(json_agg(json_build_object(
      'name', i.relname, 'is_primary', x.indisprimary, 'is_identity', x.indisreplident,
      'not_null', k.not_null, 'columns', k.columns) ORDER BY x.indisprimary DESC, i.relname), '[]')
    FROM pg_index x
    JOIN pg_class i ON i.oid = x.indexrelid
    CROSS JOIN LATERAL (
      SELECT bool_and(a.attnotnull) AS not_null, json_agg(a.attname ORDER BY p.place) AS columns
      FROM unnest(x.indkey::int2[]) WITH ORDINALITY AS p(number, place)
      JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = p.number
      WHERE p.place <= x.indnkeyatts) k
    WHERE x.indrelid = c.oid AND x.indisunique AND x.indisvalid AND x.indpred IS NULL AND x.indexprs IS NULL)
)::text
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace ";

/// Prepares what `describe` asks for each table: to plan it takes the server longer than to answer it.
pub async fn describing(client: &Client) -> Result<Statement> {
    let statement = client.prepare(&format!("{DESCRIBE} WHERE c.oid = $1")).await;
    statement.map_err(|error| errors::query("cannot read tables from the catalog", error))
}

/// The same for `named`, which knows a table by its name.
pub async fn naming(client: &Client) -> Result<Statement> {
    let statement = client.prepare(&format!("{DESCRIBE} WHERE n.nspname = $1 AND c.relname = $2")).await;
    statement.map_err(|error| errors::query("cannot read tables from the catalog", error))
}

/// One table; `None` where it is gone. By the index of names: among ten thousand tables, a search by patterns takes
/// the server longer than to read a small table.
pub async fn named(client: &Client, naming: &Statement, table: &TableName) -> Result<Option<TableInfo>> {
    let rows = client.query(naming, &[&table.schema, &table.table]).await;
    let rows =
        rows.map_err(|error| errors::query(format!("cannot read table {table} from the catalog"), error))?;
    Ok(parsed(rows)?.pop())
}

/// The tables that the file's entries mean, each once; what is missing is left out. A schema, or an
/// expression, stands for tables and roots of partitioned ones, not for parts whose root is there too.
pub async fn tables_by_pattern(client: &Client, patterns: &[TablePattern]) -> Result<Vec<TableInfo>> {
    tables_with(client, patterns, Partitions::Root).await
}

/// The same, where partitioned tables may be captured by their parts: then a schema or an expression stands
/// for every part, and for no root.
pub async fn tables_with(
    client: &Client,
    patterns: &[TablePattern],
    partitions: Partitions,
) -> Result<Vec<TableInfo>> {
    let parts = partitions == Partitions::Parts;
    let (mut schemas, mut names, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    let mut has_expressions = false;
    for pattern in patterns {
        match pattern {
            TablePattern::One(TableName { schema, table }) => {
                schemas.push(schema.as_str());
                names.push(table.as_str());
            }
            TablePattern::Schema(schema) => whole.push(schema.as_str()),
            TablePattern::Expression(_) => has_expressions = true,
        }
    }
    let sql = format!(
        "{DESCRIBE}
         WHERE (n.nspname::text, c.relname::text) IN (SELECT * FROM unnest($1::text[], $2::text[]))
            OR ((n.nspname::text = ANY($3::text[])
                  OR $4 AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')
                AND (c.relkind = 'r' OR c.relkind = 'p' AND NOT $5) AND c.relpersistence = 'p'
                AND NOT (NOT $5 AND c.relispartition AND c.relnamespace = (
                  SELECT r.relnamespace FROM pg_class r WHERE r.oid = pg_partition_root(c.oid))))
         ORDER BY n.nspname, c.relname"
    );
    let rows = client.query(&sql, &[&schemas, &names, &whole, &has_expressions, &parts]).await;
    let rows = rows.map_err(|error| errors::query("cannot read tables from the catalog", error))?;
    let mut tables: Vec<TableInfo> = parsed(rows)?;
    tables.retain(|table| patterns.iter().any(|pattern| pattern.matches(&table.schema, &table.table)));
    Ok(tables)
}

/// Reads these types, and all that they are made of, into `types`: anew, because enums grow.
pub async fn load_types(client: &Client, types: &mut Types, oids: &[u32]) -> Result<()> {
    let wanted: Vec<u32> = oids.iter().copied().filter(|oid| !is_builtin(*oid)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let sql = "\
        WITH RECURSIVE wanted(oid) AS (
          SELECT unnest($1::oid[])
          UNION
          SELECT made_of.oid FROM wanted w
          JOIN pg_type t ON t.oid = w.oid
          CROSS JOIN LATERAL (VALUES (t.typbasetype), (t.typelem)) AS made_of(oid)
          WHERE made_of.oid <> 0)
        SELECT json_build_object('oid', t.oid::bigint, 'name', t.typname,
          'shape', CASE WHEN t.typtype = 'e' THEN 'enum' WHEN t.typtype = 'd' THEN 'domain'
                        WHEN e.oid IS NOT NULL THEN 'array' WHEN t.typtype = 'b' THEN 'base'
                        ELSE 'other' END,
          'labels', (SELECT coalesce(json_agg(l.enumlabel ORDER BY l.enumsortorder), '[]')
                     FROM pg_enum l WHERE l.enumtypid = t.oid),
          'base', t.typbasetype::bigint, 'typmod', t.typtypmod, 'element', e.oid::bigint,
          'delimiter', e.typdelim)::text
        FROM wanted w
        JOIN pg_type t ON t.oid = w.oid
        LEFT JOIN pg_type e ON e.oid = t.typelem AND e.typarray = t.oid";
    let rows = client.query(sql, &[&wanted]).await;
    let rows = rows.map_err(|error| errors::query("cannot read types from the catalog", error))?;
    for found in parsed::<PgType>(rows)? {
        types.insert(found);
    }
    Ok(())
}

/// The version of a relation that a Relation message begins, and the table that completes it, as the catalog has it.
pub async fn describe(
    client: &Client,
    describing: &Statement,
    types: &mut Types,
    message: &RelationMessage,
    origin: &Origin,
) -> Result<(Relation, Option<TableInfo>)> {
    let rows = client.query(describing, &[&message.id]).await;
    // One that is gone is left out.
    let rows = rows.map_err(|error| errors::query("cannot read a table from the catalog", error))?;
    let info: Option<TableInfo> = parsed(rows)?.pop();
    let oids: Vec<u32> = message.columns.iter().map(|column| column.type_oid).collect();
    load_types(client, types, &oids).await?;
    Ok((relation::build(types, info.as_ref(), message, origin), info))
}

/// The partitioned table that this one is a part of; `None` for any other table.
pub async fn root_of(client: &Client, oid: u32) -> Result<Option<TableName>> {
    let sql = "SELECT json_build_object('schema', n.nspname, 'table', c.relname)::text
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = pg_partition_root($1::oid)";
    let rows = client.query(sql, &[&oid]).await;
    Ok(parsed(rows.map_err(|error| errors::query("cannot read a partitioned table's root", error))?)?.pop())
}

fn parsed<T: for<'de> Deserialize<'de>>(rows: Vec<Row>) -> Result<Vec<T>> {
    rows.iter()
        .map(|row| {
            let text: String =
                row.try_get(0).map_err(|error| errors::query("cannot read the catalog's answer", error))?;
            serde_json::from_str(&text)
                .map_err(|error| Error::fatal("the catalog's answer is not understood").source(error))
        })
        .collect()
}
