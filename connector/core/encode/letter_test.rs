//! What letters hide of rows, and what becomes of that when they are encoded again.

use super::disguise::{Algorithm, Cipher, Disguise, Disguised, Hashed, Salt};
use super::scene::{Desk, batch, column, debezium, insert, json, millrace, relation, route, t};
use super::*;
use crate::batch::EncodedBatch;
use crate::pattern::Pattern;
use crate::relation::Kind;
use crate::route::rule::{OnReject, Route, TopicRule};
use crate::route::template::Template;

const SECRET: &str = "DE02120300000000202051";
const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

fn mask() -> (&'static str, Disguise) {
    ("public.t.phone", Disguise::Mask { asterisks: 3 })
}

fn hash() -> (&'static str, Disguise) {
    let (algorithm, salt) = (Algorithm::Sha256, Salt("salt".into()));
    ("public.t.note", Disguise::Hash { algorithm, salt, of: Hashed::Text, length: None })
}

fn encrypt() -> (&'static str, Disguise) {
    ("public.t.iban", Disguise::Encrypt(Cipher::new("2026", KEY).unwrap()))
}

/// Rows of any other size than the one that is allowed are rejects.
fn format(allow: &str, hidden: Vec<(&str, Disguise)>) -> Format {
    let hidden = hidden.into_iter();
    let disguised = hidden.map(|(name, by)| Disguised { columns: Pattern::new(name), by }).collect();
    let format = Format { on_reject: OnReject::DeadLetter, disguised, ..json(false, millrace()) };
    let topic = Template::parse("{size}").ok().map(TopicRule::Template);
    let own = Route { topic, allow: vec![Pattern::new(allow)], ..route("public.*", format.clone()) };
    Format { routes: vec![own], ..format }
}

fn encoded(format: Format, batch: &ChangeBatch) -> EncodedBatch {
    Desk::new(format).try_encode(batch).unwrap()
}

fn first_letter(format: Format) -> Letter {
    let texts = ["iban", "note", "phone", "size"].map(|name| column(name, Kind::Text));
    let mut columns = vec![column("id", Kind::Int32)];
    columns.extend(texts);
    let mut batch = batch(&relation(columns, &[0]));
    insert(&mut batch, &[t("1"), t(SECRET), t(SECRET), t(SECRET), t("huge")]);
    letter(&encoded(format, &batch))
}

fn letter(out: &EncodedBatch) -> Letter {
    assert_eq!((out.records.len(), out.buried), (1, 1));
    Letter::parse(out.slice(out.records[0].value.unwrap())).unwrap()
}

fn again(format: &Format, letter: &Letter) -> EncodedBatch {
    encoded(format.of_letters(&letter.worn()), &letter.to_batch(1).unwrap())
}

/// The texts of the row's record.
fn delivered(format: &Format, letter: &Letter) -> [String; 3] {
    let out = again(format, letter);
    assert_eq!((out.records.len(), out.buried), (1, 0));
    let value: serde_json::Value = serde_json::from_slice(out.slice(out.records[0].value.unwrap())).unwrap();
    ["iban", "note", "phone"].map(|name| value["after"][name].as_str().unwrap().to_owned())
}

fn texts(letter: &Letter) -> [String; 3] {
    let row = letter.after.as_ref().unwrap();
    [1, 2, 3].map(|at: usize| row[at].as_str().unwrap().to_owned())
}

#[test]
fn a_letter_that_is_refused_again_and_again_is_disguised_once() {
    let hidden = || vec![mask(), hash(), encrypt()];
    let first = first_letter(format("small", hidden()));
    let worn = texts(&first);
    assert!(worn.iter().all(|text| text != SECRET) && worn[2] == "***", "{worn:?}");
    let second = letter(&again(&format("small", hidden()), &first));
    assert_eq!(texts(&second), worn);
    // Nor where the file asks for nothing in between.
    let third = letter(&again(&format("small", Vec::new()), &second));
    assert_eq!(texts(&third), worn);
    for letter in [&first, &second, &third] {
        let names = ["iban", "note", "phone"].map(str::to_owned).to_vec();
        assert_eq!((letter.hidden, &letter.disguised), (true, &Some(names)));
        assert_eq!(delivered(&format("*", hidden()), letter), worn);
    }
}

#[test]
fn what_a_letter_does_not_hide_is_hidden_by_what_the_file_says_since() {
    let first = first_letter(format("small", vec![mask()]));
    assert_eq!(texts(&first), [SECRET, SECRET, "***"]);
    let since = || vec![mask(), hash(), encrypt()];
    let [iban, note, phone] = delivered(&format("*", since()), &first);
    assert!(iban != SECRET && note != SECRET && phone == "***", "{iban} {note} {phone}");
    let second = letter(&again(&format("small", since()), &first));
    assert_eq!(delivered(&format("*", since()), &second), texts(&second));
    assert_eq!(texts(&second)[1], note);
}

#[test]
fn what_is_cut_off_in_a_letter_is_no_secret_and_can_become_one() {
    let cut = ("public.t.iban", Disguise::Truncate { characters: 4 });
    let first = first_letter(format("small", vec![cut]));
    assert_eq!(texts(&first)[0], SECRET[..4]);
    let [iban, ..] = delivered(&format("*", vec![encrypt()]), &first);
    assert!(!iban.contains(&SECRET[..4]), "{iban}");
}

#[test]
fn a_letter_that_does_not_say_which_columns_it_hides_has_no_hash_of_a_hash_and_nothing_in_the_open() {
    let mut old = first_letter(format("small", vec![mask(), hash()]));
    old.disguised = None;
    let [iban, note, phone] = delivered(&format("*", vec![mask(), hash(), encrypt()]), &old);
    assert_eq!([note, phone], texts(&old)[1..]);
    assert_ne!(iban, SECRET);
}

#[test]
fn a_hash_holds_for_the_key_and_is_put_on_once_except_in_debezium_s_dialect() {
    let by = || vec![("public.t.code", hash().1)];
    let mut batch = batch(&relation(vec![column("code", Kind::Text), column("size", Kind::Text)], &[0]));
    insert(&mut batch, &[t(SECRET), t("huge")]);
    let texts = |out: &EncodedBatch| {
        let spans = [out.records[0].key, out.records[0].value].map(Option::unwrap);
        spans.map(|span| String::from_utf8(out.slice(span).to_vec()).unwrap())
    };
    let [key, value] = texts(&encoded(format("*", by()), &batch));
    assert!(!key.contains(SECRET) && !value.contains(SECRET), "{key} {value}");
    let first = letter(&encoded(format("small", by()), &batch));
    assert!(!serde_json::to_string(&first).unwrap().contains(SECRET));
    // Of before hashes held for keys, and of before letters named what they hide.
    let before = letter(&encoded(format("small", Vec::new()), &batch));
    let mut old = before.clone();
    (old.hidden, old.disguised) = (true, None);
    for letter in [&first, &before, &old] {
        assert_eq!(texts(&again(&format("*", by()), letter))[0], key);
    }
    let debezium = json(false, debezium());
    let [key, value] = texts(&encoded(Format { disguised: format("*", by()).disguised, ..debezium }, &batch));
    assert!(key.contains(SECRET) && !value.contains(SECRET), "{key} {value}");
}
