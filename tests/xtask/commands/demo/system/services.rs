//! What the services of each system write: a row of business and its event in one transaction, now and then one
//! that is rolled back. Start at [`Writer::step`].

use std::fs;

use mongodb::Database;
use mongodb::bson::{DateTime, Document, doc};
use serde_json::{Value as Json, json};
use tokio_postgres::{Client, NoTls};
use xtask::services::{Services, repository};
use xtask::{Context, Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum System {
    Payments,
    Orders,
    Lab,
    Booking,
    Exb,
}

impl System {
    /// Its folder in `configs/`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Payments => "payments",
            Self::Orders => "orders",
            Self::Lab => "lab",
            Self::Booking => "booking",
            Self::Exb => "exb",
        }
    }

    pub fn brokers(self) -> u16 {
        if self == Self::Orders { 3 } else { 1 }
    }

    /// Where its events come out.
    pub fn topics(self) -> &'static [&'static str] {
        match self {
            Self::Payments => {
                &["payment.created", "payment.updated", "user.registered", "notification.email"]
            }
            Self::Orders => &["order-events", "inventory-events", "payment-events", "customer-events"],
            Self::Lab => &[
                "user-events",
                "userdb.public.users",
                "eventdb.public.events",
                "registrationdb.public.registrations",
                "auditdb.public.audit_log",
                "user.created",
                "user.updated",
                "user.logged_in",
                "registration.created",
                "notification.sent",
                "audit.logged",
                "unknown.events",
            ],
            Self::Booking => &[
                "booking-system.bookings",
                "booking-system.payments",
                "booking-system.tickets",
                "booking-system.notifications",
            ],
            Self::Exb => &[
                "customer.events",
                "account.events",
                "transaction.events",
                "payment.events",
                "security.events",
                "health.events",
                "performance.events",
                "error.events",
                "audit.events",
                "monitoring.events",
                "thirdparty.events",
                "external.events",
                "api.events",
                "webhook.events",
                "notification.events",
            ],
        }
    }

    /// Databases and the files that set them up.
    fn databases(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Payments => &[("core", "core.sql"), ("auth", "auth.sql"), ("gateway", "gateway.sql")],
            Self::Orders => &[("shop", "orders.sql")],
            Self::Lab => &[
                ("userdb", "userdb.sql"),
                ("eventdb", "eventdb.sql"),
                ("registrationdb", "registrationdb.sql"),
                ("auditdb", "auditdb.sql"),
            ],
            Self::Booking => &[
                ("bookings", "bookings.sql"),
                ("payments", "payments.sql"),
                ("tickets", "tickets.sql"),
                ("notifications", "notifications.sql"),
            ],
            Self::Exb => &[("domain", "outbox.sql"), ("system", "outbox.sql"), ("integration", "outbox.sql")],
        }
    }
}

pub struct Writer {
    system: System,
    databases: Vec<(&'static str, Client)>,
    store: Option<(mongodb::Client, Database)>,
    next: i64,
    /// Events that are committed.
    pub written: u64,
}

/// What one transaction says: its database, the row of business, and its events.
struct Step {
    database: &'static str,
    row: String,
    /// The row is captured, and an event by itself.
    is_told: bool,
    events: Vec<String>,
}

impl Writer {
    pub async fn set_up(system: System, services: &Services) -> Result<Self> {
        let failed = || format!("the databases of {}", system.name());
        let folder = repository().join("configs").join(system.name());
        let superuser = connect(&services.postgres.url()).await?;
        let mut databases = Vec::new();
        for (database, file) in system.databases() {
            superuser.batch_execute(&format!("CREATE DATABASE {database}")).await.context(failed)?;
            let client = connect(&services.postgres.url_of(database)).await?;
            let path = folder.join(file);
            let text = fs::read_to_string(&path).context(|| path.display().to_string())?;
            client.batch_execute(&text).await.context(failed)?;
            databases.push((*database, client));
        }
        let store = match system {
            System::Lab => {
                let client = mongodb::Client::with_uri_str(services.mongodb.url()).await.context(failed)?;
                let store = client.database("eventstore");
                let path = folder.join("setup/eventstore.json");
                let text = fs::read_to_string(&path).context(|| path.display().to_string())?;
                for command in serde_json::from_str::<Vec<Document>>(&text).context(failed)? {
                    store.run_command(command).await.context(failed)?;
                }
                Some((client, store))
            }
            _ => None,
        };
        Ok(Self { system, databases, store, next: 0, written: 0 })
    }

    /// One transaction in each of the system's databases; every seventh is rolled back.
    pub async fn step(&mut self) -> Result<()> {
        self.next += 1;
        let (n, is_undone) = (self.next, self.next % 7 == 0);
        for step in steps(self.system, n) {
            let found = self.databases.iter().find(|(database, _)| *database == step.database);
            let Some((_, client)) = found else {
                return Err(Error::new(format!("no database {}", step.database)));
            };
            let end = if is_undone { "ROLLBACK" } else { "COMMIT" };
            let all: Vec<&str> = [&step.row].into_iter().chain(&step.events).map(String::as_str).collect();
            let statements = format!("BEGIN; {}; {end}", all.join("; "));
            client.batch_execute(&statements).await.context(|| step.database.to_owned())?;
            if !is_undone {
                self.written += u64::try_from(step.events.len()).unwrap_or(0) + u64::from(step.is_told);
            }
        }
        if let Some((client, store)) = &self.store {
            self.written += store_events(client, store, n, is_undone).await?;
        }
        Ok(())
    }
}

async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.context(|| "Postgres".to_owned())?;
    tokio::spawn(async move {
        // Whoever uses the client hears of it.
        let _ = connection.await;
    });
    Ok(client)
}

/// A row of an outbox: columns beside `payload`, and the payload.
fn event(columns: &[(&str, &str)], payload: &Json) -> String {
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    let values: Vec<String> = columns.iter().map(|(_, value)| format!("'{value}'")).collect();
    let payload = payload.to_string().replace('\'', "''");
    format!("INSERT INTO outbox ({}, payload) VALUES ({}, '{payload}')", names.join(", "), values.join(", "))
}

fn steps(system: System, n: i64) -> Vec<Step> {
    match system {
        System::Payments => payments(n),
        System::Orders => orders(n),
        System::Lab => lab(n),
        System::Booking => booking(n),
        System::Exb => exb(n),
    }
}

fn payments(n: i64) -> Vec<Step> {
    let (key, user, mail) = (format!("p-{n}"), n.to_string(), format!("{n}@example.com"));
    let at = "2024-01-02T03:04:05Z";
    let of = |key: &str, kind, payload: Json| event(&[("aggregateid", key), ("type", kind)], &payload);
    let registered = json!({"user_id": n, "email": mail, "name": "N", "registered_at": at});
    let created =
        json!({"payment_id": key, "user_id": n, "amount": n * 100, "currency": "EUR", "created_at": at});
    let updated = json!({"payment_id": key, "status": "paid", "updated_at": at});
    let told = json!({"to": mail, "subject": "Paid", "body": "Thank you", "template": null});
    vec![
        Step {
            database: "auth",
            row: format!("INSERT INTO users VALUES ({n}, '{mail}', 'N')"),
            is_told: false,
            events: vec![of(&user, "user.registered", registered)],
        },
        Step {
            database: "core",
            row: format!("INSERT INTO payments VALUES ('{key}', {n}, {}, 'EUR', 'paid')", n * 100),
            is_told: false,
            events: vec![of(&key, "payment.created", created), of(&key, "payment.updated", updated)],
        },
        Step {
            database: "gateway",
            // A mail is an event and nothing else.
            row: of(&mail, "notification.email", told),
            is_told: true,
            events: Vec::new(),
        },
    ]
}

fn orders(n: i64) -> Vec<Step> {
    let (order, customer) = (format!("o-{n}"), format!("c-{}", n % 20));
    let product = format!("p-{}", n % 5);
    let of = |key: &str, kind: &str| {
        let data = json!({"order_id": order, "customer_id": customer, "product_id": product, "total": 10.5});
        event(&[("aggregateid", key), ("type", kind)], &data)
    };
    // Every other order is given up.
    let ends = match n % 2 {
        0 => [(&order, "order.completed"), (&product, "inventory.updated"), (&order, "payment.processed")],
        _ => [(&order, "order.cancelled"), (&product, "inventory.released"), (&order, "payment.failed")],
    };
    let refund = (n % 4 == 0).then_some((&order, "payment.refunded"));
    let begins = [
        (&customer, if n <= 20 { "customer.registered" } else { "customer.updated" }),
        (&order, "order.created"),
        (&product, "inventory.reserved"),
        (&order, "order.updated"),
    ];
    vec![Step {
        database: "shop",
        row: format!("INSERT INTO orders VALUES ('{order}', '{customer}', 'new', 10.50)"),
        is_told: false,
        events: begins.into_iter().chain(ends).chain(refund).map(|(key, kind)| of(key, kind)).collect(),
    }]
}

fn lab(n: i64) -> Vec<Step> {
    let (key, at) = (format!("u-{n}"), "2024-01-02T03:04:05.000Z");
    let told = |kind: &str, changes: Option<Json>| {
        let mut payload = json!({"eventType": kind, "userId": key, "email": format!("{n}@lab"), "name": "N",
                                 "timestamp": at});
        if let Some(changes) = changes {
            payload["changes"] = changes;
        }
        event(&[("aggregateid", &key), ("type", kind)], &payload)
    };
    let row = |database, row| Step { database, row, is_told: true, events: Vec::new() };
    vec![
        Step {
            events: vec![told("UserCreated", None), told("UserUpdated", Some(json!({"fullName": "M"})))],
            ..row("userdb", format!("INSERT INTO users VALUES ('{key}', 'n{n}', '{n}@lab', 'N')"))
        },
        row("eventdb", format!("INSERT INTO events VALUES ('e-{n}', 'x', '{at}', 5)")),
        row("registrationdb", format!("INSERT INTO registrations VALUES ('r-{n}', 'e-{n}', '{key}', 'new')")),
        row(
            "auditdb",
            format!("INSERT INTO audit_log (action, user_id, details) VALUES ('a', '{key}', '{{}}')"),
        ),
    ]
}

/// Events of the store, in one transaction; how many were committed.
async fn store_events(client: &mongodb::Client, store: &Database, n: i64, is_undone: bool) -> Result<u64> {
    let failed = || "the event store".to_owned();
    let kinds = [
        "UserCreated",
        "UserUpdated",
        "UserLoggedIn",
        "RegistrationCreated",
        "NotificationSent",
        "AuditLogged",
        "NotificationTriggered",
    ];
    let events = kinds.iter().zip(1_i64..).map(|(kind, version)| {
        doc! { "aggregateId": format!("u-{n}"), "eventType": *kind, "eventData": { "userId": format!("u-{n}") },
               "eventVersion": version, "timestamp": DateTime::now(), "metadata": { "source": "demo" } }
    });
    let events: Vec<Document> = events.collect();
    let mut session = client.start_session().await.context(failed)?;
    session.start_transaction().await.context(failed)?;
    let collection = store.collection::<Document>("events");
    collection.insert_many(&events).session(&mut session).await.context(failed)?;
    if is_undone {
        session.abort_transaction().await.context(failed)?;
        return Ok(0);
    }
    session.commit_transaction().await.context(failed)?;
    Ok(u64::try_from(events.len()).unwrap_or(0))
}

fn booking(n: i64) -> Vec<Step> {
    let (booking, ticket) = (format!("b-{n}"), format!("t-{n}"));
    let of = |key: &str, kind, data: Json| {
        let trace = format!("00-{n:032x}-{n:016x}-01");
        event(
            &[("aggregateid", key), ("type", kind), ("correlation_id", key), ("traceparent", &trace)],
            &data,
        )
    };
    let step = |database, row, events| Step { database, row, is_told: false, events };
    let requested = json!({"booking_id": booking, "user_id": "u", "ticket_ids": [ticket], "total_amount": "60.25",
                           "currency": "EUR", "booking_date": "2024-02-03"});
    let cancelled = json!({"booking_id": booking, "user_id": "u", "reason": null,
                           "cancelled_at": "2024-01-02T03:04:05Z"});
    let paid = json!({"booking_id": booking, "payment_id": "p", "amount": "60.25", "currency": "EUR",
                      "payment_method": "card", "transaction_id": "x"});
    let failed = json!({"booking_id": booking, "error": "none"});
    let refunded = json!({"booking_id": booking, "payment_id": "p", "refund_id": "r", "amount": "60.25",
                          "currency": "EUR"});
    let created =
        json!({"ticket_id": ticket, "event_id": "e", "seats": 5, "price": "60.25", "status": "open"});
    let sold = json!({"ticket_id": ticket, "event_id": "e", "available_seats": 3, "price": "60.25", "status": "open"});
    let sent = json!({"user_id": "u", "notification_type": "mail", "template_id": "t", "delivery_status": "sent",
                      "booking_id": booking});
    vec![
        step(
            "tickets",
            format!("INSERT INTO tickets VALUES ('{ticket}', 'e', 3, 60.25, 'open')"),
            vec![of(&ticket, "ticket-created", created), of(&ticket, "ticket-updated", sold)],
        ),
        step(
            "bookings",
            format!(
                "INSERT INTO bookings VALUES ('{booking}', 'u', 60.25, 'EUR', '2024-02-03', 'cancelled')"
            ),
            vec![of(&booking, "booking-requested", requested), of(&booking, "booking-cancelled", cancelled)],
        ),
        step(
            "payments",
            format!("INSERT INTO payments VALUES ('p-{n}', '{booking}', 60.25, 'EUR', 'refunded')"),
            vec![
                of(&booking, "payment-failed", failed),
                of(&booking, "payment-succeeded", paid),
                of(&booking, "refund-processed", refunded),
            ],
        ),
        step(
            "notifications",
            "INSERT INTO notifications (user_id, template_id, delivery_status) VALUES ('u', 't', 'sent')"
                .to_owned(),
            vec![of(&booking, "notification-sent", sent)],
        ),
    ]
}

/// The families of each database, with the data of an event.
fn exb_families() -> [(&'static str, Vec<(&'static str, Json)>); 3] {
    let domain = vec![
        ("customer", json!({"name": "N", "email": null, "status": "new"})),
        ("account", json!({"customer_id": "c", "balance": "10.00", "currency": "EUR", "status": "open"})),
        (
            "transaction",
            json!({"account_id": "a", "amount": "-10.00", "currency": "EUR", "counterparty": null, "saga_id": "s"}),
        ),
        ("payment", json!({"account_id": "a", "amount": "10.00", "currency": "EUR", "status": "done"})),
        ("security", json!({"user_id": "u", "action": "login", "outcome": "ok", "ip_address": "::1"})),
    ];
    let system = vec![
        ("health", json!({"component": "x", "status": "up"})),
        ("performance", json!({"component": "x", "metric": "m", "value": 1.5})),
        ("error", json!({"component": "x", "code": "e", "message": "m"})),
        ("audit", json!({"actor": "a", "action": "b", "object": "c"})),
        ("monitoring", json!({"component": "x", "severity": "low", "message": "m"})),
    ];
    let integration = vec![
        ("thirdparty", json!({"provider": "p", "operation": "o", "status": "ok"})),
        ("external", json!({"system": "s", "operation": "o", "status": "ok"})),
        ("api", json!({"path": "/", "method": "GET", "status": 200})),
        ("webhook", json!({"url": "u", "delivery": "d", "status": 200})),
        ("notification", json!({"recipient": "r", "channel": "mail", "template": "t", "status": "sent"})),
    ];
    [("domain", domain), ("system", system), ("integration", integration)]
}

/// Each family's event in a transaction of its own; what the bank keeps beside them is not in its folder.
fn exb(n: i64) -> Vec<Step> {
    let (key, version) = (format!("k-{}", n % 10), n.to_string());
    let step = |database, family: &str, data: &Json| {
        let kind = format!("{family}.changed");
        let row = event(
            &[("aggregatetype", family), ("aggregateid", &key), ("version", &version), ("type", &kind)],
            data,
        );
        Step { database, row, is_told: true, events: Vec::new() }
    };
    let mut steps = Vec::new();
    for (database, families) in exb_families() {
        steps.extend(families.iter().map(|(family, data)| step(database, family, data)));
    }
    steps
}
