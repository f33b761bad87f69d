//! The calls of librdkafka that the `rdkafka` crate makes slow or does not offer. The only place with `unsafe`.
//!
//! Why each is here: `commit_transaction` of the wrapper costs 100 ms; its `send` looks the topic up by name
//! and builds a C string a record; its consumer hides the offset of an end of partition, without which a
//! reader cannot know that it has passed the control records at the end.
//!
//! Start at `Client`. Everything is dropped before the client it came from, because it holds an `Arc` of it.
#![allow(unsafe_code)]

pub mod allocator;
mod events;
mod outstanding;

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka_sys as sys;

use crate::errors::{self, Code, Failure};
use events::{on_delivery, on_error, on_log};
use outstanding::Share;

pub use events::{Events, Undelivered};
pub use outstanding::Outstanding;

// The bindings make an enum of error codes, and a broker may send a code that the enum does not have, which
// would be undefined behaviour in Rust. The same functions, with numbers: a C enum is an int.
mod number {
    use super::{c_char, c_int, sys};

    unsafe extern "C" {
        pub fn rd_kafka_error_code(error: *const sys::rd_kafka_error_t) -> c_int;
        pub fn rd_kafka_event_error(event: *mut sys::rd_kafka_event_t) -> c_int;
        pub fn rd_kafka_last_error() -> c_int;
        pub fn rd_kafka_err2str(code: c_int) -> *const c_char;
        pub fn rd_kafka_producev(rk: *mut sys::rd_kafka_t, ...) -> c_int;
        pub fn rd_kafka_flush(rk: *mut sys::rd_kafka_t, timeout_ms: c_int) -> c_int;
        pub fn rd_kafka_query_watermark_offsets(
            rk: *mut sys::rd_kafka_t,
            topic: *const c_char,
            partition: i32,
            low: *mut i64,
            high: *mut i64,
            timeout_ms: c_int,
        ) -> c_int;
        pub fn rd_kafka_metadata(
            rk: *mut sys::rd_kafka_t,
            all_topics: c_int,
            only_topic: *mut sys::rd_kafka_topic_t,
            metadata: *mut *const sys::rd_kafka_metadata,
            timeout_ms: c_int,
        ) -> c_int;
        pub fn rd_kafka_fatal_error(rk: *mut sys::rd_kafka_t, text: *mut c_char, size: usize) -> c_int;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Producer,
    Consumer,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One instance of librdkafka. Dropping it joins its threads: drop it on a thread that may block.
pub struct Client {
    rk: *mut sys::rd_kafka_t,
    // The callbacks' opaques point into both. Declared, and so dropped, after the instance is destroyed.
    events: Arc<Events>,
    shares: Mutex<HashMap<String, Arc<Share>>>,
}

// SAFETY: librdkafka's handles may be used from any thread at once (its manual, "Thread safety").
unsafe impl Send for Client {}
// SAFETY: as above.
unsafe impl Sync for Client {}

impl Client {
    pub fn new(config: &ClientConfig, role: Role) -> Result<Arc<Self>, String> {
        allocator::tune();
        let native = config.create_native_config().map_err(|error| match error {
            rdkafka::error::KafkaError::ClientConfig(_, _, key, _) => format!("it does not take \"{key}\""),
            other => other.to_string(),
        })?;
        let events = Arc::new(Events::default());
        let mut text: [c_char; 512] = [0; 512];
        // SAFETY: the conf is alive; the callbacks match librdkafka's types; the opaque outlives the
        // instance, which is destroyed in `drop` before `events` is. On success the instance owns the conf.
        let rk = unsafe {
            sys::rd_kafka_conf_set_opaque(native.ptr(), Arc::as_ptr(&events).cast_mut().cast());
            sys::rd_kafka_conf_set_error_cb(native.ptr(), Some(on_error));
            sys::rd_kafka_conf_set_log_cb(native.ptr(), Some(on_log));
            let kind = match role {
                Role::Producer => {
                    sys::rd_kafka_conf_set_dr_msg_cb(native.ptr(), Some(on_delivery));
                    sys::rd_kafka_type_t::RD_KAFKA_PRODUCER
                }
                Role::Consumer => sys::rd_kafka_type_t::RD_KAFKA_CONSUMER,
            };
            sys::rd_kafka_new(kind, native.ptr(), text.as_mut_ptr(), text.len())
        };
        if rk.is_null() {
            // SAFETY: librdkafka ends the text with a zero.
            return Err(unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned());
        }
        let _ = ManuallyDrop::new(native);
        Ok(Arc::new(Self { rk, events, shares: Mutex::default() }))
    }

    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Runs the callbacks that wait.
    pub fn poll(&self, timeout: Duration) {
        // SAFETY: the instance is alive.
        unsafe { sys::rd_kafka_poll(self.rk, millis(timeout)) };
    }

    pub fn topic(self: &Arc<Self>, name: &str) -> Result<Topic, Failure> {
        // No conf means the defaults.
        self.topic_with(name, ptr::null_mut(), None)
    }

    /// One whose records are counted while they are on their way.
    pub fn counted_topic(
        self: &Arc<Self>,
        name: &str,
        partitions: u32,
        outstanding: &Arc<Outstanding>,
    ) -> Result<Topic, Failure> {
        let new = || Arc::new(Share::new(outstanding.clone(), partitions));
        // Once a name: librdkafka keeps the opaque of the first handle.
        let share = lock(&self.shares).entry(name.to_owned()).or_insert_with(new).clone();
        // SAFETY: the instance is alive; the opaque lives as long as it does.
        let conf = unsafe {
            let conf = sys::rd_kafka_default_topic_conf_dup(self.rk);
            sys::rd_kafka_topic_conf_set_opaque(conf, Arc::as_ptr(&share).cast_mut().cast());
            conf
        };
        self.topic_with(name, conf, Some(share))
    }

    fn topic_with(
        self: &Arc<Self>,
        name: &str,
        conf: *mut sys::rd_kafka_topic_conf_t,
        share: Option<Arc<Share>>,
    ) -> Result<Topic, Failure> {
        let text = CString::new(name).map_err(|_| invalid("a topic's name holds a zero"))?;
        // SAFETY: the instance and the text are alive, and the conf is given away.
        let rkt = unsafe { sys::rd_kafka_topic_new(self.rk, text.as_ptr(), conf) };
        if rkt.is_null() {
            return Err(last_failure());
        }
        Ok(Topic { rkt, share, client: self.clone() })
    }

    /// Ends at once with the first answer; the timeout is librdkafka's, so the caller keeps a watch.
    pub fn init_transactions(&self, timeout: Duration) -> Result<(), Failure> {
        // SAFETY: the instance is alive; `done` takes the error over.
        done(unsafe { sys::rd_kafka_init_transactions(self.rk, millis(timeout)) })
    }

    pub fn begin_transaction(&self) -> Result<(), Failure> {
        // SAFETY: as above.
        done(unsafe { sys::rd_kafka_begin_transaction(self.rk) })
    }

    pub fn commit_transaction(&self, timeout: Duration) -> Result<(), Failure> {
        // SAFETY: as above.
        done(unsafe { sys::rd_kafka_commit_transaction(self.rk, millis(timeout)) })
    }

    pub fn abort_transaction(&self, timeout: Duration) -> Result<(), Failure> {
        // SAFETY: as above.
        done(unsafe { sys::rd_kafka_abort_transaction(self.rk, millis(timeout)) })
    }

    /// Waits until every record is delivered or has failed, with no linger.
    pub fn flush(&self, timeout: Duration) -> Result<(), Failure> {
        // SAFETY: the instance is alive.
        match unsafe { number::rd_kafka_flush(self.rk, millis(timeout)) } {
            0 => Ok(()),
            code => Err(failure_of(code)),
        }
    }

    /// Drops every record that is not delivered.
    pub fn purge(&self) {
        let flags = sys::RD_KAFKA_PURGE_F_QUEUE | sys::RD_KAFKA_PURGE_F_INFLIGHT;
        // SAFETY: the instance is alive, and both flags are valid for a producer.
        unsafe { sys::rd_kafka_purge(self.rk, flags) };
    }

    /// The error after which this instance can do nothing more, if there was one.
    pub fn fatal(&self) -> Option<Failure> {
        let mut text: [c_char; 512] = [0; 512];
        // SAFETY: the instance is alive and the buffer's size is given.
        let code = unsafe { number::rd_kafka_fatal_error(self.rk, text.as_mut_ptr(), text.len()) };
        if code == 0 {
            return None;
        }
        // SAFETY: librdkafka ends the text with a zero.
        let text = unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned();
        Some(Failure { code: Code(code), text, retriable: false })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // SAFETY: nothing that came from the instance is alive, because all of it holds an `Arc` of this.
        // The flag only keeps a consumer from leaving a group that it never joined.
        unsafe { sys::rd_kafka_destroy_flags(self.rk, sys::RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE) };
    }
}

/// A topic's handle in one producer or consumer.
pub struct Topic {
    rkt: *mut sys::rd_kafka_topic_t,
    share: Option<Arc<Share>>,
    client: Arc<Client>,
}

// SAFETY: as `Client`.
unsafe impl Send for Topic {}
// SAFETY: as `Client`.
unsafe impl Sync for Topic {}

impl Topic {
    /// Enqueues one record, copying it. Never waits. `place` comes back if it is not delivered; `time_ms` 0 is
    /// now.
    pub fn produce<'a>(
        &self,
        partition: u32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>,
        place: u64,
        time_ms: i64,
    ) -> Result<(), Code> {
        let partition = c_int::try_from(partition).map_err(|_| Code::INVALID)?;
        let headers = Headers::new(headers);
        let (key_at, key_len) = parts(key);
        let (value_at, value_len) = parts(value);
        let bytes = (key_len + value_len) as u64;
        self.count(|share| share.add(partition as usize, bytes));
        // SAFETY: the arguments are tags with values of the C types that librdkafka takes for them, ended
        // by END; key and value are copied before the call returns; the opaque is a number that nobody
        // follows as a pointer; the headers are librdkafka's own only if the call succeeds.
        let code = unsafe {
            number::rd_kafka_producev(
                self.client.rk,
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_RKT,
                self.rkt,
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_PARTITION,
                partition,
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_MSGFLAGS,
                sys::RD_KAFKA_MSG_F_COPY,
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_KEY,
                key_at,
                key_len,
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_VALUE,
                value_at,
                value_len,
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_HEADERS,
                headers.0,
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_TIMESTAMP,
                time_ms,
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_OPAQUE,
                ptr::without_provenance_mut::<c_void>(place as usize),
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_END,
            )
        };
        if code != 0 {
            self.count(|share| share.remove(partition as usize, bytes));
            return Err(Code(code));
        }
        let _ = ManuallyDrop::new(headers);
        Ok(())
    }

    fn count(&self, change: impl FnOnce(&Share)) {
        if let Some(share) = &self.share {
            change(share);
        }
    }

    /// Connects to whichever broker answers first, and learns where the topic's partitions are.
    pub fn look_up(&self, timeout: Duration) -> Result<(), Failure> {
        let mut metadata = ptr::null();
        // SAFETY: client, handle and pointer are alive; the metadata is ours, and given back at once.
        let code =
            unsafe { number::rd_kafka_metadata(self.client.rk, 0, self.rkt, &mut metadata, millis(timeout)) };
        if code != 0 {
            return Err(failure_of(code));
        }
        // SAFETY: as above.
        unsafe { sys::rd_kafka_metadata_destroy(metadata) };
        Ok(())
    }

    /// Reads one partition of this topic from an offset on. One reader a topic handle at a time.
    pub fn read(&self, partition: i32, from: i64) -> Result<Reader<'_>, Failure> {
        // SAFETY: the handle is a consumer's and alive.
        match unsafe { sys::rd_kafka_consume_start(self.rkt, partition, from) } {
            0 => Ok(Reader { topic: self, partition }),
            _ => Err(last_failure()),
        }
    }

    /// Where the partition begins and ends; what the end is depends on the client's `isolation.level`.
    pub fn offsets(&self, partition: i32, timeout: Duration) -> Result<(i64, i64), Failure> {
        let (mut low, mut high) = (-1, -1);
        // SAFETY: the client, the handle and both numbers are alive; the name is the handle's own.
        let code = unsafe {
            let name = sys::rd_kafka_topic_name(self.rkt);
            let (rk, wait) = (self.client.rk, millis(timeout));
            number::rd_kafka_query_watermark_offsets(rk, name, partition, &mut low, &mut high, wait)
        };
        match code {
            0 => Ok((low, high)),
            code => Err(failure_of(code)),
        }
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        // SAFETY: the client is alive, and nothing else uses the handle.
        unsafe { sys::rd_kafka_topic_destroy(self.rkt) };
    }
}

/// A list of headers that is still ours.
struct Headers(*mut sys::rd_kafka_headers_t);

impl Headers {
    fn new<'a>(headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>) -> Self {
        let mut list = Self(ptr::null_mut());
        for (name, value) in headers {
            if list.0.is_null() {
                // SAFETY: makes a new list. Two is what a record usually has.
                list.0 = unsafe { sys::rd_kafka_headers_new(2) };
            }
            let (value, len) = value.map_or((ptr::null(), 0), |value| (value.as_ptr(), value.len()));
            // SAFETY: name and value are copied, and a null is a value. It fails only for a list that is in use.
            unsafe {
                sys::rd_kafka_header_add(
                    list.0,
                    name.as_ptr().cast(),
                    name.len() as isize,
                    value.cast(),
                    len as isize,
                )
            };
        }
        list
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the list is ours, because the call that would have taken it over failed.
            unsafe { sys::rd_kafka_headers_destroy(self.0) };
        }
    }
}

/// What a read gave.
pub enum Read<'a> {
    Record {
        offset: i64,
        key: Option<&'a [u8]>,
        value: Option<&'a [u8]>,
    },
    /// Everything before this offset has been read, control records and aborted ones included.
    End(i64),
    Nothing,
}

/// A running read of one partition.
pub struct Reader<'a> {
    topic: &'a Topic,
    partition: i32,
}

impl Reader<'_> {
    /// Gives the next record, or the end, to `with`.
    pub fn next<T>(&self, timeout: Duration, with: impl FnOnce(Read<'_>) -> T) -> Result<T, Failure> {
        const END: i32 = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF as i32;
        // SAFETY: the read was started and is not stopped.
        let message = unsafe { sys::rd_kafka_consume(self.topic.rkt, self.partition, millis(timeout)) };
        if message.is_null() {
            return Ok(with(Read::Nothing));
        }
        let message = Message(message);
        match message.code() {
            0 => {
                // SAFETY: the message is alive until the end of this function, and so are its parts.
                let (offset, key, value) = unsafe {
                    let m = &*message.0;
                    (m.offset, bytes(m.key, m.key_len), bytes(m.payload, m.len))
                };
                Ok(with(Read::Record { offset, key, value }))
            }
            // SAFETY: the message is alive.
            END => Ok(with(Read::End(unsafe { (*message.0).offset }))),
            code => Err(failure_of(code)),
        }
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        // SAFETY: the read was started with the same handle and partition.
        unsafe { sys::rd_kafka_consume_stop(self.topic.rkt, self.partition) };
    }
}

struct Message(*mut sys::rd_kafka_message_t);

impl Message {
    fn code(&self) -> i32 {
        // SAFETY: the message is alive; the code is read as the int that it is in C.
        unsafe { code_of(self.0) }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: the message came from `rd_kafka_consume` and is ours.
        unsafe { sys::rd_kafka_message_destroy(self.0) };
    }
}

/// # Safety
/// The message is alive.
unsafe fn code_of(message: *const sys::rd_kafka_message_t) -> i32 {
    // SAFETY: a field of a live message; not read as the enum, see `number`.
    unsafe { (&raw const (*message).err).cast::<i32>().read() }
}

/// # Safety
/// `at` points to `len` bytes that outlive the result, or is null.
unsafe fn bytes<'a>(at: *mut c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: by the contract above.
    (!at.is_null()).then(|| unsafe { std::slice::from_raw_parts(at.cast::<u8>(), len) })
}

fn parts(bytes: Option<&[u8]>) -> (*const c_void, usize) {
    bytes.map_or((ptr::null(), 0), |bytes| (bytes.as_ptr().cast(), bytes.len()))
}

/// librdkafka's timeouts are ints of milliseconds.
fn millis(timeout: Duration) -> c_int {
    c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX)
}

/// Takes an error object over; none is success.
fn done(error: *mut sys::rd_kafka_error_t) -> Result<(), Failure> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the error is ours until it is destroyed here; its string is copied before.
    unsafe {
        let text = CStr::from_ptr(sys::rd_kafka_error_string(error)).to_string_lossy().into_owned();
        let code = Code(number::rd_kafka_error_code(error));
        let retriable = sys::rd_kafka_error_is_retriable(error) != 0;
        sys::rd_kafka_error_destroy(error);
        Err(Failure { code, text, retriable })
    }
}

/// librdkafka's words for a code.
pub fn describe(code: Code) -> String {
    // SAFETY: gives a text that lives as long as the program, for any number.
    unsafe { CStr::from_ptr(number::rd_kafka_err2str(code.0)) }.to_string_lossy().into_owned()
}

fn failure_of(code: c_int) -> Failure {
    Failure { code: Code(code), text: describe(Code(code)), retriable: false }
}

fn last_failure() -> Failure {
    // SAFETY: reads the code that the failed call left for this thread.
    failure_of(unsafe { number::rd_kafka_last_error() })
}

fn invalid(text: &str) -> Failure {
    Failure { code: Code::INVALID, text: text.to_owned(), retriable: false }
}

/// Takes what an admin client of the wrapper has logged and reported, which nobody else would ever read: its
/// queue would grow for as long as a broker is away. Gives the trouble that they told last, with its code.
pub fn drain_log<C: rdkafka::ClientContext>(client: &rdkafka::client::Client<C>) -> Option<Failure> {
    let mut trouble: Option<Failure> = None;
    // SAFETY: the client is alive; the queue and each event are ours until they are destroyed here; an
    // event's strings live as long as it.
    unsafe {
        let queue = sys::rd_kafka_queue_get_main(client.native_ptr());
        loop {
            let event = sys::rd_kafka_queue_poll(queue, 0);
            if event.is_null() {
                break;
            }
            let (mut facility, mut text, mut level) = (ptr::null(), ptr::null(), 0);
            if sys::rd_kafka_event_log(event, &mut facility, &mut text, &mut level) == 0 {
                tracing::debug!(target: "librdkafka", "{}", CStr::from_ptr(text).to_string_lossy());
            } else if sys::rd_kafka_event_type(event) == sys::RD_KAFKA_EVENT_ERROR {
                let code = Code(number::rd_kafka_event_error(event));
                let told = trouble.as_ref().map(|known| known.code);
                if errors::tells_more(code, told) {
                    let text = CStr::from_ptr(sys::rd_kafka_event_error_string(event)).to_string_lossy();
                    trouble = Some(Failure { code, text: text.into_owned(), retriable: false });
                }
            }
            sys::rd_kafka_event_destroy(event);
        }
        sys::rd_kafka_queue_destroy(queue);
    }
    trouble
}

/// The level of syslog up to which a line tells of trouble.
const LOG_ERROR: c_int = 3;
