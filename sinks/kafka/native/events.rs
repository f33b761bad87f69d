//! What librdkafka tells through callbacks: records that were not delivered, errors of the connections, log lines.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rdkafka_sys as sys;

use super::outstanding::Share;
use super::{LOG_ERROR, code_of, failure_of, lock};
use crate::errors::{self, Code, Failure};
use crate::login::Refused;

/// A record that was not delivered.
#[derive(Clone, Debug)]
pub struct Undelivered {
    pub failure: Failure,
    pub topic: String,
    pub partition: i32,
    /// What `Topic::produce` was given with it.
    pub place: u64,
}

/// What librdkafka told us through callbacks. Written on whichever thread polls, and on its own.
#[derive(Debug, Default)]
pub struct Events {
    undelivered: Mutex<Option<Undelivered>>,
    has_undelivered: AtomicBool,
    /// The last thing that went wrong in the connections and tells why, for messages.
    trouble: Mutex<Option<(Code, String)>>,
    errors_seen: AtomicBool,
    refused: Refused,
}

impl Events {
    /// The first record that was not delivered.
    pub fn undelivered(&self) -> Option<Undelivered> {
        if !self.has_undelivered.load(Ordering::Acquire) {
            return None;
        }
        lock(&self.undelivered).clone()
    }

    /// Whether a broker did not let us in.
    pub fn refused(&self) -> Refused {
        self.refused.clone()
    }

    pub fn trouble(&self) -> Option<String> {
        lock(&self.trouble).as_ref().map(|(_, text)| text.clone())
    }

    /// Whether librdkafka reported what can have touched a commit since the last time this was asked.
    pub fn take_errors_seen(&self) -> bool {
        self.errors_seen.swap(false, Ordering::AcqRel)
    }
}

/// # Safety
/// `opaque` is the `Events` that `Client::new` set.
pub(super) unsafe extern "C" fn on_delivery(
    _rk: *mut sys::rd_kafka_t,
    message: *const sys::rd_kafka_message_t,
    opaque: *mut c_void,
) {
    // SAFETY: librdkafka hands over a live message; its topic's opaque is nothing, or the share that
    // `counted_topic` keeps for as long as the client.
    let code = unsafe {
        if let Some(share) = sys::rd_kafka_topic_opaque((*message).rkt).cast::<Share>().as_ref() {
            share.remove((*message).partition as usize, ((*message).key_len + (*message).len) as u64);
        }
        code_of(message)
    };
    if code == 0 {
        return;
    }
    // SAFETY: by the contract above; the topic's handle lives as long as the message.
    let (events, message, topic) = unsafe {
        let topic = CStr::from_ptr(sys::rd_kafka_topic_name((*message).rkt));
        (&*opaque.cast::<Events>(), &*message, topic.to_string_lossy().into_owned())
    };
    let mut first = lock(&events.undelivered);
    if first.is_none() {
        let place = message._private.addr() as u64;
        *first = Some(Undelivered { failure: failure_of(code), topic, partition: message.partition, place });
        events.has_undelivered.store(true, Ordering::Release);
    }
}

/// # Safety
/// `opaque` is the `Events` that `Client::new` set.
pub(super) unsafe extern "C" fn on_error(
    _rk: *mut sys::rd_kafka_t,
    code: c_int,
    text: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: by the contract above; librdkafka hands over a text that ends with a zero.
    let (events, text) = unsafe { (&*opaque.cast::<Events>(), CStr::from_ptr(text)) };
    let text = text.to_string_lossy();
    if errors::concerns_commit(Code(code), &text) {
        events.errors_seen.store(true, Ordering::Release);
    }
    events.refused.note(Code(code));
    let mut trouble = lock(&events.trouble);
    if errors::tells_more(Code(code), trouble.as_ref().map(|(known, _)| *known)) {
        *trouble = Some((Code(code), text.into_owned()));
    }
}

/// # Safety
/// The texts end with a zero. Called from librdkafka's own threads.
pub(super) unsafe extern "C" fn on_log(
    _rk: *const sys::rd_kafka_t,
    level: c_int,
    _facility: *const c_char,
    text: *const c_char,
) {
    // Errors reach the user through the sink's own errors, with an object and a remedy, so these lines are
    // for those who look closer.
    // SAFETY: by the contract above.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    if level < LOG_ERROR {
        tracing::warn!(target: "librdkafka", "{text}");
    } else {
        tracing::debug!(target: "librdkafka", "{text}");
    }
}
