//! What steps make of records: fields, keys, headers and partitions, in rows that stand alone and in envelopes.

use serde_json::json;

use super::flat::{Deletes, Flat};
use super::scene::{
    C, Desk, Seen, add, batch, column, debezium, header, insert, json as in_json, millrace, ready, relation,
    t,
};
use super::*;
use crate::batch::{Before, Op};
use crate::pattern::Pattern;
use crate::relation::Kind;
use crate::route::step::{Does, Hash, Inserted, Name, Part, Spread, Step};
use crate::route::topics::Topics;
use crate::route::zone::Zone;

fn step(does: Does) -> Step {
    Step { relations: Vec::new(), topics: None, does }
}

fn names(names: &[&str]) -> Vec<Name> {
    names.iter().map(|name| Name::parse(name)).collect()
}

fn spread(fields: &[&str], partitions: Option<u32>, hash: Hash) -> Step {
    step(Does::Partition(Spread { fields: names(fields), partitions, hash }))
}

fn renamed(of: Part, from: &str, to: &str) -> Step {
    step(Does::Rename { of, fields: vec![(Name::parse(from), to.into())] })
}

fn with(format: Format, steps: Vec<Step>) -> Format {
    Format { steps, ..format }
}

fn flat(format: Format, deletes: Deletes) -> Format {
    Format { envelope: Envelope::Flat, flat: Flat { deletes, ..Flat::default() }, ..format }
}

fn users() -> ChangeBatch {
    let columns = vec![
        column("id", Kind::Int32),
        column("name?", Kind::Text),
        column("pay", Kind::Int64),
        column("active", Kind::Bool),
    ];
    let mut batch = batch(&relation(columns, &[0]));
    insert(&mut batch, &[t("7"), t("anna"), t("1000"), t("t")]);
    let old = [t("7"), t("anna"), t("1000"), t("t")];
    add(&mut batch, Op::Update, Before::Full, &old, &[t("7"), C::N, t("2000"), t("f")]);
    add(&mut batch, Op::Delete, Before::Full, &old, &[]);
    batch
}

fn seen(format: Format) -> Vec<Seen> {
    Desk::new(format).encode(&users())
}

/// What is said of steps that do not fit.
fn refusal(steps: Vec<Step>) -> String {
    let mut desk = Desk::new(with(in_json(false, debezium()), steps.clone()));
    let error = ready(desk.encoder.prepare(&users())).unwrap_err();
    let relation = Relation::clone(&users().relations[0]);
    let found = misfits(&with(debezium(), steps), &[relation]);
    let text = format!("{error}: {}", error.hint_text().unwrap_or_default());
    // The same is known before there is a row.
    if !text.contains("partitions, and topic") {
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), [error.to_string()]);
    }
    text
}

#[test]
fn fields_are_left_out_renamed_replaced_and_added_each_step_after_the_one_before() {
    let steps = || {
        vec![
            step(Does::Drop { of: Part::Row, fields: names(&["active", "nobody?"]) }),
            renamed(Part::Row, "name", "called"),
            step(Does::Replace { fields: names(&["called"]), with: Some("somebody".into()) }),
            step(Does::Replace { fields: names(&["pay"]), with: None }),
            step(Does::Insert(vec![
                Inserted { name: "of".into(), text: "shop".into(), optional: true },
                Inserted { name: "at".into(), text: "eu".into(), optional: false },
            ])),
            renamed(Part::Key, "id", "user_id"),
        ]
    };
    let row = |called| json!({"id": 7, "called": called, "pay": 0, "of": "shop", "at": "eu"});
    for format in [debezium(), millrace(), in_json(false, debezium()), in_json(false, millrace())] {
        let all = seen(with(format.clone(), steps()));
        assert_eq!(all[0].key, Some(json!({"user_id": 7})));
        let part = |nth: usize, part: &str| all[nth].value.as_ref().unwrap()[part].clone();
        assert_eq!(part(0, "after"), row(Some("somebody")));
        assert_eq!((part(1, "before"), part(1, "after")), (row(Some("somebody")), row(None)));
        assert_eq!(part(2, "before"), row(Some("somebody")));
        assert_eq!((&all[3].key, &all[3].value), (&Some(json!({"user_id": 7})), &None));

        let all = seen(with(flat(format, Deletes::Rewrite), steps()));
        let mut expected = row(None);
        expected["__deleted"] = json!("false");
        assert_eq!(all[1].value, Some(expected));
    }
}

#[test]
fn a_row_may_be_left_with_added_fields_alone() {
    let steps = || {
        vec![
            step(Does::Keep { of: Part::Row, fields: names(&["nobody?"]) }),
            step(Does::Insert(vec![Inserted { name: "of".into(), text: "x".into(), optional: true }])),
        ]
    };
    for format in [in_json(false, debezium()), debezium()] {
        assert_eq!(
            seen(with(format.clone(), steps()))[0].value.as_ref().unwrap()["after"],
            json!({"of": "x"})
        );
        let all = seen(with(flat(format, Deletes::Tombstone), steps()));
        assert_eq!(all[0].value, Some(json!({"of": "x"})));
    }
}

#[test]
fn steps_are_of_the_relations_and_topics_that_they_name() {
    let only = |topics: &str, negated| {
        let drop = step(Does::Drop { of: Part::Row, fields: names(&["pay", "active", "name"]) });
        vec![Step { topics: Some(Topics::new(topics, negated).unwrap()), ..drop }]
    };
    let after =
        |steps| seen(with(in_json(false, debezium()), steps))[0].value.as_ref().unwrap()["after"].clone();
    assert_eq!(after(only("test_server\\.public\\.t", false)), json!({"id": 7}));
    assert_eq!(after(only("test_server\\.public\\.t", true))["name"], "anna");
    let other = Step { relations: vec![Pattern::new("public.other")], ..step(Does::Discard) };
    assert_eq!(after(vec![other])["name"], "anna");
}

#[test]
fn fields_become_headers_and_headers_go() {
    let headers = vec![("user".into(), Name::parse("id")), ("called".into(), Name::parse("name"))];
    let steps = vec![
        step(Does::Headers { fields: headers, moves: true }),
        step(Does::HeaderTexts(vec![("team".into(), "payments".into())])),
        step(Does::DropHeaders(vec!["__debezium.context.runId".into(), "__debezium.context.taskId".into()])),
    ];
    let all = seen(with(flat(in_json(false, debezium()), Deletes::Tombstone), steps));
    assert_eq!(all[0].value, Some(json!({"pay": 1000, "active": true})));
    assert_eq!(all[0].key, Some(json!({"id": 7})));
    assert_eq!((header(&all[0], "user"), header(&all[0], "called")), (Some("7"), Some("anna")));
    // A NULL makes none.
    assert_eq!((header(&all[1], "user"), header(&all[1], "called")), (Some("7"), None));
    for seen in &all {
        let names: Vec<&str> = seen.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.contains(&"team"), "{names:?}");
        assert!(names.contains(&"__debezium.context.connectorName"), "{names:?}");
        assert!(!names.iter().any(|name| name.ends_with("runId") || name.ends_with("taskId")), "{names:?}");
    }
}

#[test]
fn headers_of_a_changed_key_can_be_dropped_one_by_one() {
    let mut batch = users();
    let (old, new) = ([t("7"), t("a"), t("1"), t("t")], [t("8"), t("a"), t("1"), t("t")]);
    add(&mut batch, Op::Update, Before::Full, &old, &new);
    let drop = step(Does::DropHeaders(vec!["__debezium.newkey".into()]));
    let all = Desk::new(with(in_json(false, debezium()), vec![drop])).encode(&batch);
    let moved = &all[all.len() - 3..];
    assert!(moved.iter().all(|seen| header(seen, "__debezium.newkey").is_none()));
    assert_eq!(header(&moved[2], "__debezium.oldkey"), Some("{\"id\":7}"));
}

#[test]
fn a_key_is_made_of_fields_of_the_row() {
    let steps = vec![renamed(Part::Row, "pay", "salary"), step(Does::Key(names(&["salary", "id"])))];
    let mut desk = Desk::new(with(flat(debezium(), Deletes::Tombstone), steps));
    let all = desk.encode(&users());
    assert_eq!(all[0].key, Some(json!({"salary": 1000, "id": 7})));
    let schemas = desk.registry.schemas.lock().unwrap().clone();
    assert!(schemas[0].1.contains("ConnectDefault"), "Kafka Connect's have no name: {}", schemas[0].1);
}

#[test]
fn a_key_of_fields_that_may_be_missing_and_are_stays_what_it_is() {
    let all = seen(with(in_json(false, debezium()), vec![step(Does::Key(names(&["tenant?"])))]));
    assert_eq!(all[0].key, Some(json!({"id": 7})));
}

#[test]
fn an_update_of_what_only_headers_or_partitions_show_is_one() {
    let mut batch = users();
    batch.changes.clear();
    let (old, new) = ([t("7"), t("a"), t("1"), t("t")], [t("7"), t("a"), t("2"), t("t")]);
    add(&mut batch, Op::Update, Before::Full, &old, &new);
    let quiet = Format { skip_unchanged: true, ..in_json(false, debezium()) };
    let drop = step(Does::Drop { of: Part::Row, fields: names(&["pay"]) });
    let moved = step(Does::Headers { fields: vec![("pay".into(), Name::parse("pay"))], moves: true });
    for (steps, count) in
        [(vec![drop.clone()], 0), (vec![moved], 1), (vec![spread(&["pay"], None, Hash::Java), drop], 1)]
    {
        assert_eq!(Desk::new(with(quiet.clone(), steps.clone())).encode(&batch).len(), count, "{steps:?}");
    }
}

#[test]
fn a_truncate_has_no_row_to_choose_a_partition_by() {
    let mut batch = users();
    batch.changes.clear();
    add(&mut batch, Op::Truncate, Before::None, &[], &[]);
    let format = Format { truncates: true, ..in_json(false, debezium()) };
    let all = Desk::new(with(format, vec![spread(&["pay"], None, Hash::Java)])).encode(&batch);
    assert_eq!(all.len(), 1);
}

#[test]
fn records_of_equal_fields_share_a_partition_and_tombstones_go_with_their_rows() {
    let of = |step| -> Vec<u32> {
        seen(with(in_json(false, debezium()), vec![step])).iter().map(|seen| seen.partition).collect()
    };
    // 1000 is of Java's long 1000, 2000 of 2000; the delete and its tombstone are of the old row.
    assert_eq!(of(spread(&["pay"], Some(3), Hash::Java)), [1, 2, 1, 1]);
    let by_text = |text: &str| crate::route::partition(Some(text.as_bytes()), 4);
    let [one, two] = [by_text("1000"), by_text("2000")];
    assert_eq!(of(spread(&["pay"], None, Hash::Murmur2)), [one, two, one, one]);
    // By the key, where there is no value.
    let by_key = by_text("{\"id\":7}");
    let anna = by_text("anna");
    assert_eq!(of(spread(&["name?"], None, Hash::Murmur2)), [anna, by_key, anna, anna]);
    assert!(refusal(vec![spread(&["id"], Some(9), Hash::Java)]).contains("over 9 partitions, and topic"));
    assert!(refusal(vec![spread(&["name"], None, Hash::Java)]).contains("may be NULL"));
}

#[test]
fn a_delete_that_came_without_the_field_of_its_partition_is_a_reject() {
    let table = relation(vec![column("id", Kind::Int32), column("team", Kind::Text)], &[0]);
    let mut batch = batch(&table);
    add(&mut batch, Op::Delete, Before::Key, &[t("7"), C::N], &[]);
    let format = |field: &str| with(in_json(false, debezium()), vec![spread(&[field], None, Hash::Murmur2)]);
    let error = Desk::new(format("team")).try_encode(&batch).unwrap_err();
    assert_eq!(error.code_text(), Some("not_sent"));
    assert!(error.hint_text().unwrap().contains("REPLICA IDENTITY FULL"), "{error:?}");
    assert_eq!(Desk::new(format("team?")).encode(&batch).len(), 2);
}

#[test]
fn timestamps_are_those_of_a_zone_s_clocks() {
    let columns = vec![
        column("id", Kind::Int32),
        column("at", Kind::TimestampTz { precision: 6 }),
        column("shown?", Kind::Timestamp { precision: 3 }),
        column("exact?", Kind::Timestamp { precision: 6 }),
    ];
    let mut batch = batch(&relation(columns, &[0]));
    let (summer, winter) = ("2026-07-14 02:13:20", "2026-12-31 23:30:00");
    insert(&mut batch, &[t("1"), t(&format!("{summer}.5+00")), t(summer), t(summer)]);
    insert(&mut batch, &[t("2"), t(&format!("{winter}+00")), t(winter), C::N]);
    insert(&mut batch, &[t("3"), t("infinity"), t("infinity"), t("-infinity")]);
    let zoned = |fields: &[&str]| {
        let zone = Zone::parse("Europe/Berlin").unwrap();
        with(in_json(false, debezium()), vec![step(Does::Timezone { zone, fields: names(fields) })])
    };
    let rows = |format| -> Vec<serde_json::Value> {
        Desk::new(format)
            .encode(&batch)
            .iter()
            .map(|seen| seen.value.as_ref().unwrap()["after"].clone())
            .collect()
    };
    let plain = rows(in_json(false, debezium()));
    let all = rows(zoned(&[]));
    assert_eq!(all[0]["at"], "2026-07-14T04:13:20.5+02:00");
    assert_eq!(all[1]["at"], "2027-01-01T00:30:00+01:00");
    let ours = rows(Format { dialect: Dialect::Millrace, ..zoned(&[]) });
    assert_eq!(ours[0]["at"], "2026-07-14T04:13:20.500000+02:00");
    let less =
        |row: usize, field: &str| plain[row][field].as_i64().unwrap() - all[row][field].as_i64().unwrap();
    assert_eq!((less(0, "shown"), less(0, "exact"), less(1, "shown")), (7_200_000, 7_200_000_000, 3_600_000));
    assert_eq!(all[2], plain[2], "what is no moment stays");
    let one = rows(zoned(&["at"]));
    assert_eq!((&one[0]["at"], &one[0]["shown"]), (&all[0]["at"], &plain[0]["shown"]));
}

#[test]
fn relations_that_are_discarded_make_no_records_and_need_no_topic() {
    // What comes behind it need not fit.
    let behind = step(Does::Drop { of: Part::Row, fields: names(&["none"]) });
    let mut desk = Desk::new(with(debezium(), vec![step(Does::Discard), behind]));
    let mut batch = users();
    let row = |id: &str| [t(id), t("a"), t("1"), t("t")];
    add(&mut batch, Op::Update, Before::Full, &row("7"), &row("8"));
    assert_eq!(desk.encode(&batch), []);
    assert!(desk.registry.topics.lock().unwrap().is_empty());
    assert!(desk.registry.schemas.lock().unwrap().is_empty());
}

#[test]
fn a_step_that_does_not_fit_its_table_is_refused_with_the_names_that_do() {
    let drop = |of, field: &str| step(Does::Drop { of, fields: names(&[field]) });
    let headers = |field: &str| {
        let fields = vec![("h".into(), Name::parse(field))];
        step(Does::Headers { fields, moves: false })
    };
    let replace = |field: &str, text: Option<&str>| {
        step(Does::Replace { fields: names(&[field]), with: text.map(Into::into) })
    };
    for (steps, parts) in [
        (vec![drop(Part::Row, "naem")], ["public.t has no field naem", "id, name, pay, active"]),
        (vec![drop(Part::Key, "name")], ["the key of table public.t has no field name", "there are id"]),
        (vec![drop(Part::Key, "id")], ["leaves the key of table public.t empty", "no order"]),
        (vec![drop(Part::Row, "pay"), headers("pay")], ["has no field pay", "id, name, active"]),
        (vec![renamed(Part::Row, "name", "pay")], ["a second field pay", "another name"]),
        (vec![headers("active")], ["public.t.active", "no text and no whole number"]),
        (vec![replace("pay", Some("much"))], ["public.t.pay", "cannot hold \"much\""]),
        (vec![replace("active", Some("x"))], ["public.t.active", "`with` does not fit it"]),
        (
            vec![step(Does::Timezone { zone: Zone::parse("UTC").unwrap(), fields: names(&["pay"]) })],
            ["public.t.pay", "is no timestamp"],
        ),
        (
            vec![spread(&["name?"], None, Hash::Java), replace("name", None)],
            ["public.t.name chooses the partition", "dead letters"],
        ),
        (vec![replace("name", None), headers("name")], ["public.t.name", "masked, and the step shows it"]),
    ] {
        let said = refusal(steps);
        for part in parts {
            assert!(said.contains(part), "{part:?} is not in {said:?}");
        }
    }
}

#[test]
fn letters_hide_what_steps_hide_and_keep_what_headers_show() {
    use crate::encode::disguise::Disguise;
    use crate::encode::hidden::How;
    let steps = vec![
        step(Does::Headers { fields: vec![("called".into(), Name::parse("name"))], moves: true }),
        step(Does::Drop { of: Part::Row, fields: names(&["active"]) }),
        step(Does::Replace { fields: names(&["pay"]), with: None }),
    ];
    let format = with(in_json(false, debezium()), steps);
    let batch = users();
    let made = super::steps::Made::of(&format, None, &batch.relations[0], "t").unwrap();
    let hidden = super::hidden::hidden(&format, &batch.relations[0], &made);
    let found: Vec<(usize, bool)> = hidden
        .iter()
        .map(|hidden| (hidden.index, matches!(hidden.how, How::By(Disguise::Replace(_)))))
        .collect();
    assert_eq!(found, [(2, true), (3, false)]);
}
