//! Every property that Debezium 3.6 and Kafka Connect document for these connectors, with its default there
//! and what it comes to here. `configs/debezium.md` is made of this table.

/// What a property comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Here {
    /// One of our keys, or several.
    Becomes(&'static str),
    /// Taken whatever it says, and nothing has to be done for it: why.
    Idle(&'static str),
    /// These values only: why no other.
    Only(&'static [&'static str], &'static str),
    /// Why it cannot be had.
    Refused(&'static str),
}

/// A name, where `*` stands for anything; Debezium's default; what it comes to.
pub type Property = (&'static str, &'static str, Here);

use Here::{Becomes, Idle, Only, Refused};

const ONE_VERSION: &str = "there is one version: this one";
const CODE: &str = "it names Java code";
const NO_KEYSTORES: &str = "certificates are PEM files here, not key stores";
const QUEUE: &str = "the batches between the stages are bounded by batch_bytes_max";
const RETRY: &str = "a failure that can pass is tried again for ever, with growing pauses";
const NO_SIGNALS: &str = "signals are not read from there";
const SINK_S_OWN: &str = "signals are heard on the brokers of the sink, with its login";
const METRICS: &str = "metrics are Prometheus' and have fixed labels";
const EOS: &str = "data and position are always in one Kafka transaction";

/// Of Kafka Connect.
pub const CONNECT: &[Property] = &[
    ("name", "", Becomes("name")),
    ("connector.class", "", Becomes("[source.postgres] or [source.mongodb]")),
    ("connector.plugin.version", "the newest", Idle(ONE_VERSION)),
    ("tasks.max", "1", Idle("a connector is one task")),
    ("tasks.max.enforce", "true", Idle("a connector is one task")),
    ("key.converter", "the worker's", Becomes("format.encoding")),
    ("value.converter", "the worker's", Becomes("format.encoding")),
    ("*.converter.plugin.version", "the newest", Idle(ONE_VERSION)),
    ("*.converter.schemas.enable", "true", Becomes("format.json_schemas")),
    ("*.converter.schema.registry.url", "", Becomes("format.registry")),
    (
        "*.converter.basic.auth.credentials.source",
        "URL",
        Only(&["URL", "USER_INFO"], "the others are Java code"),
    ),
    ("*.converter.basic.auth.user.info", "", Becomes("format.registry_username, format.registry_password")),
    ("*.converter.bearer.auth.credentials.source", "", Only(&["STATIC_TOKEN"], "the others are Java code")),
    ("*.converter.bearer.auth.token", "", Becomes("format.registry_token")),
    (
        "*.converter.auto.register.schemas",
        "true",
        Only(&["true"], "a schema that changes is registered at its place"),
    ),
    ("*.converter.use.latest.version", "false", Only(&["false"], "a record is written by its own schema")),
    (
        "*.converter.normalize.schemas",
        "false",
        Only(&["false"], "schemas are registered as they are printed"),
    ),
    (
        "*.converter.*.subject.name.strategy",
        "TopicNameStrategy",
        Only(
            &["io.confluent.kafka.serializers.subject.TopicNameStrategy"],
            "subjects are <topic>-key and <topic>-value",
        ),
    ),
    (
        "*.converter.enhanced.avro.schema.support",
        "false",
        Only(&["false"], "enumerations stay strings, as they are by default"),
    ),
    ("*.converter.connect.meta.data", "true", Only(&["true"], "schemas keep what Connect knows of them")),
    (
        "*.converter.replace.null.with.default",
        "true",
        Only(&["true"], "the dialect debezium writes the default for a null"),
    ),
    (
        "*.converter.decimal.format",
        "BASE64",
        Only(&["BASE64"], "set decimal.handling.mode=string for readable decimals"),
    ),
    ("*.converter.schemas.cache.*", "1000", Idle("schemas are kept as long as they are needed")),
    ("*.converter.scrub.invalid.names", "false", Only(&["false"], "use schema.name.adjustment.mode")),
    ("*.converter.*", "", Refused("this option of the converter is not known here")),
    ("header.converter", "SimpleHeaderConverter", Idle("headers are texts")),
    ("topic.creation.enable", "true", Idle("topics that are missing are created")),
    ("topic.creation.default.partitions", "", Becomes("sink.kafka.topic_defaults.partitions")),
    ("topic.creation.default.replication.factor", "", Becomes("sink.kafka.topic_defaults.replication")),
    ("topic.creation.default.*", "", Becomes("sink.kafka.topic_defaults.config")),
    ("topic.creation.groups", "", Becomes("sink.kafka.topics")),
    ("topic.creation.*.include", "", Becomes("sink.kafka.topics")),
    (
        "topic.creation.*.exclude",
        "",
        Refused("a group is the topics that it includes; make its expressions narrower"),
    ),
    ("topic.creation.*.partitions", "", Becomes("sink.kafka.topics")),
    ("topic.creation.*.replication.factor", "", Becomes("sink.kafka.topics")),
    ("topic.creation.*", "", Becomes("sink.kafka.topics, config")),
    ("producer.override.bootstrap.servers", "the worker's", Becomes("sink.kafka.bootstrap")),
    ("producer.override.security.protocol", "PLAINTEXT", Becomes("sink.kafka.security")),
    ("producer.override.sasl.mechanism", "", Becomes("sink.kafka.sasl.mechanism")),
    ("producer.override.sasl.jaas.config", "", Becomes("sink.kafka.sasl.username, sink.kafka.sasl.password")),
    (
        "producer.override.ssl.truststore.location",
        "",
        Becomes("sink.kafka.tls.ca_file, where the type is PEM"),
    ),
    ("producer.override.ssl.truststore.type", "JKS", Only(&["PEM"], NO_KEYSTORES)),
    ("producer.override.ssl.*", "", Refused(NO_KEYSTORES)),
    ("producer.override.acks", "all", Idle(EOS)),
    ("producer.override.enable.idempotence", "true", Idle(EOS)),
    ("producer.override.transactional.id", "", Idle(EOS)),
    ("producer.override.max.in.flight.requests.per.connection", "1", Idle(EOS)),
    ("producer.override.retries", "", Idle(RETRY)),
    ("producer.override.delivery.timeout.ms", "", Idle("it follows the transaction's timeout")),
    ("producer.override.request.timeout.ms", "", Idle("it follows the transaction's timeout")),
    ("producer.override.max.block.ms", "", Idle("it follows the transaction's timeout")),
    ("producer.override.buffer.memory", "33554432", Idle("sink.kafka.memory_bytes bounds it")),
    ("producer.override.max.request.size", "1048576", Idle("it follows max.message.bytes of the topics")),
    ("producer.override.batch.size", "16384", Becomes("sink.kafka.client")),
    ("producer.override.linger.ms", "0", Becomes("sink.kafka.client")),
    ("producer.override.compression.type", "none", Becomes("sink.kafka.client")),
    ("producer.override.client.id", "", Becomes("sink.kafka.client")),
    (
        "producer.override.*",
        "",
        Refused("this option of the producer is not known here; see [sink.kafka.client]"),
    ),
    ("consumer.override.*", "", Idle("nothing is consumed for the source")),
    ("admin.override.*", "", Idle("topics are made by the producer's client")),
    (
        "errors.tolerance",
        "none",
        Only(&["none"], "a record that is dropped would be lost; [dead_letters] keeps it"),
    ),
    ("errors.retry.*", "", Idle(RETRY)),
    ("errors.log.*", "", Idle("what fails is logged, without its data")),
    ("exactly.once.support", "requested", Idle(EOS)),
    ("transaction.boundary", "poll", Idle("a source transaction is in one Kafka transaction")),
    ("transaction.boundary.interval.ms", "", Idle("a source transaction is in one Kafka transaction")),
    ("offsets.storage.topic", "the worker's", Idle("the position is in a topic of its own")),
    ("config.action.reload", "restart", Idle("secrets are read at the start")),
    ("plugin.*", "", Idle("there are no plugins")),
    (
        "transforms",
        "",
        Becomes(
            "format.rename_topics, format.flat, [[step]], or [[route]] for the event router; see the transforms above",
        ),
    ),
    ("transforms.*", "", Becomes("the same; their options are those of the transforms above")),
    (
        "predicates",
        "",
        Becomes(
            "only and not, for TopicNameMatches, and for HasHeaderKey where the transforms before say which topics have the \
             header; RecordIsTombstone, of Filter and of values",
        ),
    ),
    ("predicates.*", "", Becomes("only and not")),
];

/// Of both connectors.
pub const SHARED: &[Property] = &[
    ("topic.prefix", "", Becomes("format.topic_prefix")),
    ("topic.delimiter", ".", Only(&["."], "topics are <prefix>.<schema>.<table>")),
    ("topic.cache.size", "10000", Idle("topics are known as long as they are used")),
    ("topic.transaction", "transaction", Becomes("format.transaction_topic")),
    ("topic.heartbeat.prefix", "__debezium-heartbeat", Becomes("format.heartbeat_topic")),
    ("topic.heartbeat.name", "", Becomes("format.heartbeat_topic")),
    ("heartbeat.interval.ms", "0", Becomes("format.heartbeat_topic_interval_s, in whole seconds")),
    ("provide.transaction.metadata", "false", Becomes("format.transactions")),
    ("tombstones.on.delete", "true", Becomes("format.tombstones")),
    ("skipped.operations", "t", Becomes("format.skip_operations, format.truncates")),
    ("extended.headers.enabled", "true", Becomes("format.context_headers")),
    ("max.batch.size", "2048", Idle(QUEUE)),
    ("max.queue.size", "8192", Idle(QUEUE)),
    ("max.queue.size.in.bytes", "0", Idle(QUEUE)),
    ("queue.provider.type", "memory", Idle(QUEUE)),
    ("poll.interval.ms", "500", Idle("changes are passed on as they come")),
    ("poll.dispatch.interval.ms", "0", Idle("changes are passed on as they come")),
    (
        "event.processing.failure.handling.mode",
        "fail",
        Only(&["fail"], "an event that is passed over is lost"),
    ),
    (
        "event.converting.failure.handling.mode",
        "warn",
        Only(
            &["warn", "fail"],
            "what cannot be written stops the connector, or is a dead letter; it never becomes null",
        ),
    ),
    ("errors.max.retries", "-1", Idle(RETRY)),
    ("retriable.restart.connector.wait.ms", "10000", Idle(RETRY)),
    ("custom.retriable.exception", "", Refused(CODE)),
    ("executor.shutdown.timeout.ms", "4000", Idle("a stop takes 10 s at most")),
    (
        "sourceinfo.struct.maker",
        "the connector's",
        Only(
            &[
                "io.debezium.connector.postgresql.PostgresSourceInfoStructMaker",
                "io.debezium.connector.mongodb.MongoDbSourceInfoStructMaker",
            ],
            CODE,
        ),
    ),
    (
        "transaction.metadata.factory",
        "DefaultTransactionMetadataFactory",
        Only(&["io.debezium.pipeline.txmetadata.DefaultTransactionMetadataFactory"], CODE),
    ),
    ("snapshot.*.custom.name", "", Refused(CODE)),
    (
        "heartbeat.topics.prefix",
        "__debezium-heartbeat",
        Only(&["__debezium-heartbeat"], "use topic.heartbeat.prefix"),
    ),
    ("query.fetch.size", "0", Idle("rows are read in chunks, each as one stream")),
    ("internal.*", "", Idle("it is about Debezium's own works")),
    ("custom.metric.tags", "", Idle(METRICS)),
    ("statistics.metrics.enabled", "false", Idle(METRICS)),
    ("custom.sanitize.pattern", "", Idle("secrets are never logged")),
    ("converters", "", Refused(CODE)),
    ("signal.*", "", Refused(NO_SIGNALS)),
    ("signal.kafka.topic", "<topic.prefix>-signal", Becomes("sink.kafka.signal_topic")),
    (
        "signal.kafka.groupId",
        "kafka-signal",
        Becomes("sink.kafka.signal_group; by default one of the connector's own"),
    ),
    ("signal.kafka.bootstrap.servers", "", Idle(SINK_S_OWN)),
    ("signal.kafka.poll.timeout.ms", "100", Idle("a topic is heard at once")),
    ("signal.consumer.*", "", Idle(SINK_S_OWN)),
    ("incremental.snapshot.chunk.size", "1024", Idle("snapshot_chunk_rows says it")),
    (
        "incremental.snapshot.watermarking.strategy",
        "insert_insert",
        Idle("chunks are placed without watermarks"),
    ),
    ("incremental.snapshot.allow.schema.changes", "false", Idle("a changed table is read anew")),
    (
        "notification.enabled.channels",
        "",
        Becomes("sink: format.notification_topic; the log and REST always tell them"),
    ),
    ("notification.sink.topic.name", "", Becomes("format.notification_topic")),
    ("openlineage.integration.enabled", "false", Only(&["false"], "lineage is not told")),
    ("openlineage.integration.*", "", Idle("lineage is not told")),
    ("snapshot.delay.ms", "0", Only(&["0"], "a start does not wait")),
    ("streaming.delay.ms", "0", Only(&["0"], "a start does not wait")),
    ("snapshot.fetch.size", "10240", Idle("rows are read in chunks of snapshot_chunk_rows")),
    ("snapshot.max.threads.multiplier", "1", Idle("rows are read in chunks beside the stream")),
    ("legacy.snapshot.max.threads", "false", Idle("rows are read in chunks beside the stream")),
    ("snapshot.tables.order.by.row.count", "disabled", Idle("tables are read in the order of their names")),
    ("snapshot.mode.custom.name", "", Refused(CODE)),
    ("guardrail.collections.max", "0", Only(&["0"], "tables are not counted")),
    ("guardrail.collections.limit.action", "warn", Idle("tables are not counted")),
    ("schema.name.adjustment.mode", "none", Becomes("format.schema_names")),
    ("field.name.adjustment.mode", "none", Becomes("format.field_names")),
];

/// Of the Postgres connector.
pub const POSTGRES: &[Property] = &[
    (
        "post.processors",
        "",
        Becomes("source.postgres.reselect_columns for ReselectColumnsPostProcessor, and no other"),
    ),
    ("*.type", "", Becomes("the class of a post processor")),
    (
        "*.reselect.columns.include.list",
        "",
        Becomes("source.postgres.reselect_columns; without it, of all columns"),
    ),
    ("*.reselect.columns.exclude.list", "", Becomes("source.postgres.exclude_reselect_columns")),
    ("*.reselect.null.values", "true", Becomes("source.postgres.reselect_nulls")),
    ("*.reselect.unavailable.values", "true", Only(&["true"], "that is what it is for")),
    ("*.reselect.use.event.key", "false", Only(&["false"], "rows are found by their replica identity")),
    (
        "*.reselect.error.handling.mode",
        "warn",
        Idle(
            "what is gone, or of a table that has changed, keeps the placeholder; any other failure is tried again",
        ),
    ),
    (
        "signal.enabled.channels",
        "source",
        Becomes("source.postgres.signal_table, source.postgres.signal_file, sink.kafka.signal_topic"),
    ),
    (
        "signal.data.collection",
        "",
        Becomes("source.postgres.signal_table; its rows make no events unless it is captured"),
    ),
    ("signal.file", "file-signals.txt", Becomes("source.postgres.signal_file")),
    ("signal.poll.interval.ms", "5000", Becomes("source.postgres.signal_file_interval_s, in whole seconds")),
    ("signal.emit.failure.*", "", Idle("chunks are placed without watermarks")),
    ("database.hostname", "", Becomes("source.postgres.url")),
    ("database.port", "5432", Becomes("source.postgres.url")),
    ("database.user", "", Becomes("source.postgres.url")),
    ("database.dbname", "", Becomes("source.postgres.url")),
    ("database.password", "", Becomes("source.postgres.password")),
    ("database.sslmode", "prefer", Becomes("source.postgres.sslmode")),
    ("database.sslrootcert", "", Becomes("source.postgres.sslrootcert")),
    ("database.sslcert", "", Becomes("source.postgres.sslcert")),
    ("database.sslkey", "", Becomes("source.postgres.sslkey, a PEM file")),
    ("database.sslpassword", "", Refused("a key file is not encrypted here")),
    ("database.sslfactory", "", Refused(CODE)),
    ("database.tcpKeepAlive", "true", Idle("silence ends a connection after receive_timeout_s")),
    ("database.initial.statements", "", Refused("settings of a role belong to it: ALTER ROLE ... SET ...")),
    ("memory.management.*", "", Idle("what is known of tables is kept in memory")),
    ("database.query.timeout.ms", "600000", Idle("every query has its own limit")),
    ("database.connection.factory.class", "", Refused(CODE)),
    ("database.*", "", Refused("this option of the driver is not known here")),
    ("driver.*", "", Refused("this option of the driver is not known here")),
    ("connection.validation.timeout.ms", "60000", Idle("check waits 60 s")),
    ("read.only", "false", Idle("no table is ever written to")),
    (
        "plugin.name",
        "decoderbufs",
        Only(
            &["pgoutput", "decoderbufs"],
            "the server's own pgoutput is read, whichever of the two is named",
        ),
    ),
    ("slot.name", "debezium", Becomes("source.postgres.slot, with existing_slot = \"take\"")),
    ("slot.drop.on.stop", "false", Only(&["false"], "a slot that is dropped loses what comes meanwhile")),
    ("slot.failover", "false", Becomes("source.postgres.failover_slot")),
    ("slot.stream.params", "", Refused("the options of the stream are fixed")),
    ("slot.max.retries", "6", Idle(RETRY)),
    ("slot.retry.delay.ms", "10000", Idle(RETRY)),
    ("internal.create.slot.command.timeout", "90", Idle("the same limit")),
    ("publication.name", "dbz_publication", Becomes("source.postgres.publication")),
    (
        "publication.autocreate.mode",
        "all_tables",
        Becomes(
            "source.postgres.create_publication, alter_publication and only_published; the publication lists the captured tables, and one that is there is altered only by filtered, which adds tables and takes none out",
        ),
    ),
    ("publish.via.partition.root", "false", Becomes("source.postgres.partitions")),
    ("replica.identity.autoset.values", "", Refused("check says which ALTER TABLE is missing")),
    (
        "offset.mismatch.strategy",
        "no_validation",
        Only(
            &["no_validation", "trust_offset"],
            "a gap between the position and the slot always stops the connector",
        ),
    ),
    (
        "lsn.flush.mode",
        "connector",
        Only(&["connector", "connector_and_driver"], "what is delivered is always confirmed"),
    ),
    ("flush.lsn.source", "true", Only(&["true"], "what is delivered is always confirmed")),
    ("lsn.flush.timeout.ms", "30000", Idle("confirming waits for nothing")),
    ("lsn.flush.timeout.action", "fail", Idle("confirming waits for nothing")),
    ("status.update.interval.ms", "10000", Becomes("source.postgres.status_interval_s")),
    ("xmin.fetch.interval.ms", "0", Only(&["0"], "source.xmin is null")),
    ("snapshot.mode", "initial", Becomes("source.postgres.snapshot")),
    (
        "snapshot.mode.configuration.based.*",
        "false",
        Becomes(
            "source.postgres.snapshot_rows, source.postgres.snapshot_stream, source.postgres.snapshot_on_loss",
        ),
    ),
    ("snapshot.max.threads", "1", Becomes("source.postgres.snapshot_workers")),
    ("snapshot.include.collection.list", "all", Refused("every captured table is read, or none")),
    (
        "snapshot.isolation.mode",
        "serializable",
        Idle("each chunk is read under a snapshot, and placed in the stream by what it saw"),
    ),
    ("snapshot.locking.mode", "none", Only(&["none", "shared"], "nothing is locked")),
    ("snapshot.lock.timeout.ms", "10000", Idle("nothing is locked")),
    ("snapshot.query.mode", "select_all", Only(&["select_all"], CODE)),
    ("snapshot.select.statement.overrides", "", Refused("rows are read by their key")),
    ("snapshot.select.statement.overrides.*", "", Refused("rows are read by their key")),
    ("schema.include.list", "all", Becomes("source.postgres.tables")),
    ("schema.exclude.list", "", Becomes("source.postgres.exclude_tables")),
    ("table.include.list", "all", Becomes("source.postgres.tables")),
    ("table.exclude.list", "", Becomes("source.postgres.exclude_tables")),
    ("table.ignore.builtin", "true", Only(&["true"], "system tables are not in the log")),
    ("column.include.list", "all", Becomes("format.include_columns")),
    ("column.exclude.list", "", Becomes("format.exclude_columns")),
    ("message.key.columns", "", Becomes("source.postgres.message_keys")),
    ("skip.messages.without.change", "false", Becomes("format.skip_unchanged")),
    ("column.mask.with.*.chars", "", Becomes("format.mask_columns")),
    ("column.mask.hash.v2.*.with.salt.*", "", Becomes("format.hash_columns")),
    ("column.mask.hash.*.with.salt.*", "", Becomes("format.hash_columns, with hash_version = 1")),
    ("column.truncate.to.*.chars", "", Becomes("format.truncate_columns")),
    ("column.propagate.source.type", "", Becomes("format.source_types")),
    ("datatype.propagate.source.type", "", Becomes("format.source_types_of")),
    (
        "include.schema.comments",
        "false",
        Idle("Debezium writes none for Postgres; format.comments does, in a TOML file"),
    ),
    ("time.precision.mode", "adaptive", Becomes("format.times")),
    ("decimal.handling.mode", "precise", Becomes("format.decimals")),
    ("money.fraction.digits", "2", Only(&["2"], "amounts have two digits after the point")),
    ("hstore.handling.mode", "json", Becomes("format.hstore")),
    ("interval.handling.mode", "numeric", Becomes("format.intervals")),
    ("binary.handling.mode", "bytes", Becomes("format.binary")),
    ("include.unknown.datatypes", "false", Only(&["false"], "the dialect millrace has every type, as text")),
    ("unavailable.value.placeholder", "__debezium_unavailable_value", Becomes("format.placeholder")),
    ("schema.refresh.mode", "columns_diff", Idle("the stream's own description of a table is used")),
    (
        "topic.naming.strategy",
        "io.debezium.schema.SchemaTopicNamingStrategy",
        Only(&["io.debezium.schema.SchemaTopicNamingStrategy"], "topics are <prefix>.<schema>.<table>"),
    ),
    ("heartbeat.action.query", "", Becomes("source.postgres.heartbeat_query")),
    ("message.prefix.include.list", "all", Becomes("source.postgres.message_events")),
    ("message.prefix.exclude.list", "", Becomes("source.postgres.exclude_message_events")),
];

/// Of the MongoDB connector.
pub const MONGODB: &[Property] = &[
    ("connection.validation.timeout.ms", "60000", Idle("every request has its own limit")),
    ("post.processors", "", Refused(CODE)),
    (
        "signal.enabled.channels",
        "source",
        Becomes("source.mongodb.signal_collection, sink.kafka.signal_topic; file and jmx are refused"),
    ),
    (
        "signal.data.collection",
        "",
        Becomes("source.mongodb.signal_collection; its documents make no events unless it is captured"),
    ),
    ("signal.poll.interval.ms", "5000", Idle("a topic is heard at once")),
    ("mongodb.connection.string", "", Becomes("source.mongodb.url")),
    ("mongodb.user", "", Becomes("source.mongodb.url")),
    ("mongodb.password", "", Becomes("source.mongodb.password")),
    ("mongodb.authsource", "admin", Becomes("source.mongodb.url")),
    ("mongodb.authentication.class", "", Refused(CODE)),
    ("mongodb.ssl.enabled", "false", Becomes("source.mongodb.url")),
    ("mongodb.ssl.invalid.hostname.allowed", "false", Only(&["false"], "a server proves its name")),
    ("mongodb.ssl.*", "", Refused("certificates are PEM files here: tls_ca_file, tls_certificate_key_file")),
    ("mongodb.connect.timeout.ms", "10000", Becomes("source.mongodb.connect_timeout_s")),
    ("mongodb.socket.timeout.ms", "0", Idle("a read that waits is no failure")),
    ("mongodb.server.selection.timeout.ms", "30000", Becomes("source.mongodb.server_selection_timeout_s")),
    ("mongodb.heartbeat.frequency.ms", "10000", Idle("the driver watches the members")),
    ("mongodb.poll.interval.ms", "30000", Idle("the driver watches the members")),
    ("connect.max.attempts", "16", Idle(RETRY)),
    ("connect.backoff.initial.delay.ms", "1000", Idle(RETRY)),
    ("connect.backoff.max.delay.ms", "120000", Idle(RETRY)),
    (
        "database.include.list",
        "all",
        Becomes("source.mongodb.collections; source.mongodb.databases beside expressions of collections"),
    ),
    ("database.exclude.list", "", Becomes("source.mongodb.exclude_collections")),
    ("collection.include.list", "all", Becomes("source.mongodb.collections")),
    ("collection.exclude.list", "", Becomes("source.mongodb.exclude_collections")),
    ("filters.match.mode", "regex", Only(&["regex", "literal"], "there is no third")),
    ("field.exclude.list", "", Becomes("source.mongodb.exclude_fields")),
    ("field.renames", "", Becomes("source.mongodb.rename_fields")),
    (
        "capture.mode",
        "change_streams_update_full",
        Becomes("source.mongodb.update_document, source.mongodb.pre_images"),
    ),
    ("capture.mode.full.update.type", "lookup", Becomes("source.mongodb.update_document")),
    ("capture.scope", "deployment", Becomes("source.mongodb.scope")),
    ("capture.target", "", Becomes("source.mongodb.collections, where no list names them")),
    ("capture.start.op.time", "-1", Becomes("source.mongodb.start_at")),
    ("cursor.pipeline", "", Refused("stages of the aggregation are the connector's own")),
    (
        "cursor.pipeline.order",
        "internal_first",
        Only(&["internal_first"], "stages of the aggregation are the connector's own"),
    ),
    ("cursor.oversize.handling.mode", "fail", Becomes("source.mongodb.split_large_events")),
    ("cursor.oversize.skip.threshold", "0", Only(&["0"], "an event that is passed over is lost")),
    ("cursor.max.await.time.ms", "0", Idle("the server's own limit")),
    (
        "json.serialization.mode",
        "legacy",
        Only(&["legacy"], "3.6 has this one alone; a TOML file takes others by json"),
    ),
    (
        "snapshot.mode",
        "initial",
        Becomes(
            "source.mongodb.snapshot: initial, no_data, never, and configuration_based where it comes to one of these; each other is refused with its reason",
        ),
    ),
    ("snapshot.mode.configuration.based.*", "false", Becomes("source.mongodb.snapshot")),
    ("snapshot.max.threads", "1", Becomes("source.mongodb.snapshot_workers")),
    ("snapshot.include.collection.list", "all", Becomes("source.mongodb.snapshot_collections")),
    ("snapshot.collection.filter.overrides", "", Becomes("source.mongodb.snapshot_filters")),
    ("snapshot.collection.filter.overrides.*", "", Becomes("source.mongodb.snapshot_filters")),
    (
        "topic.naming.strategy",
        "io.debezium.schema.DefaultTopicNamingStrategy",
        Only(
            &["io.debezium.schema.DefaultTopicNamingStrategy"],
            "topics are <prefix>.<database>.<collection>",
        ),
    ),
    ("internal.mongodb.allow.offset.invalidation", "false", Idle("positions are the connector's own")),
];

/// Whether a property's name is this one, or one of its kind.
pub fn is_named(pattern: &str, name: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == name };
    let Some(rest) = name.strip_prefix(head) else { return false };
    (0..=rest.len()).any(|at| rest.get(at..).is_some_and(|rest| is_named(tail, rest)))
}
