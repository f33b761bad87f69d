//! One connection to one broker: framing, version negotiation, request and response.
//!
//! `Connection::open` asks for the broker's versions; `Connection::call` sends one request and
//! waits for its answer, so a connection never has more than one in flight.

use std::collections::HashMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes, VersionRange};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::{Error, Result};

/// A fetch asks for at most 16 MiB, so a longer answer is a broken stream, not data.
const FRAME_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Brokers answer in milliseconds; a fetch waits at most a second by its own limit.
const CALL_TIME_MAX: Duration = Duration::from_secs(15);

/// The newest version of each request that still names topics by name and, for the requests of
/// transactions, follows the protocol before KIP-890's second part.
fn version_cap(key: ApiKey) -> i16 {
    match key {
        ApiKey::Produce => 9,
        ApiKey::Fetch => 12,
        ApiKey::ListOffsets => 7,
        ApiKey::Metadata => 9,
        ApiKey::FindCoordinator => 3,
        ApiKey::InitProducerId => 4,
        ApiKey::AddPartitionsToTxn => 3,
        ApiKey::EndTxn => 3,
        _ => i16::MAX,
    }
}

pub struct Connection {
    stream: TcpStream,
    broker_versions: HashMap<i16, VersionRange>,
    correlation_id: i32,
}

impl Connection {
    pub async fn open(address: &str) -> Result<Connection> {
        let stream = timeout(CALL_TIME_MAX, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        let mut connection = Connection { stream, broker_versions: HashMap::new(), correlation_id: 0 };
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("millrace-ledger"))
            .with_client_software_version(StrBytes::from_static_str("1"));
        let answer: ApiVersionsResponse = connection.exchange(&request, 3).await?;
        if answer.error_code != 0 {
            return Err(format!("{address} refused ApiVersions with code {}", answer.error_code).into());
        }
        for api in answer.api_keys {
            connection
                .broker_versions
                .insert(api.api_key, VersionRange { min: api.min_version, max: api.max_version });
        }
        Ok(connection)
    }

    pub async fn call<R: Request>(&mut self, request: &R) -> Result<R::Response> {
        let version = self.version_of::<R>()?;
        self.exchange(request, version).await
    }

    fn version_of<R: Request>(&self) -> Result<i16> {
        let key = ApiKey::try_from(R::KEY).map_err(|()| format!("unknown request key {}", R::KEY))?;
        let broker = self
            .broker_versions
            .get(&R::KEY)
            .ok_or_else(|| format!("the broker does not know the request {key:?}"))?;
        let both = R::VERSIONS.intersect(broker);
        let version = both.max.min(version_cap(key));
        if version < both.min {
            return Err(format!("no common version of {key:?}: the broker speaks {broker}").into());
        }
        Ok(version)
    }

    async fn exchange<R: Request>(&mut self, request: &R, version: i16) -> Result<R::Response> {
        self.correlation_id += 1;
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some(StrBytes::from_static_str("millrace-ledger")));
        let mut body = BytesMut::new();
        header.encode(&mut body, R::header_version(version)).map_err(protocol)?;
        request.encode(&mut body, version).map_err(protocol)?;
        let length = i32::try_from(body.len())?;
        let mut answer = timeout(CALL_TIME_MAX, async {
            self.stream.write_all(&length.to_be_bytes()).await?;
            self.stream.write_all(&body).await?;
            self.read_frame().await
        })
        .await??;
        let header =
            ResponseHeader::decode(&mut answer, R::Response::header_version(version)).map_err(protocol)?;
        if header.correlation_id != self.correlation_id {
            return Err("the broker answered another request".into());
        }
        R::Response::decode(&mut answer, version).map_err(protocol)
    }

    async fn read_frame(&mut self) -> Result<Bytes> {
        let length = usize::try_from(self.stream.read_i32().await?)?;
        if length > FRAME_BYTES_MAX {
            return Err(format!("a frame of {length} bytes is above the limit").into());
        }
        let mut frame = BytesMut::zeroed(length);
        self.stream.read_exact(&mut frame).await?;
        Ok(frame.freeze())
    }
}

fn protocol(error: impl std::fmt::Display) -> Error {
    format!("kafka protocol: {error:#}").into()
}
