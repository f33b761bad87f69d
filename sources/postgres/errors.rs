//! What an answer of the server means for the connector, decided by its SQLSTATE. Start at `kind_of`.

use std::error::Error as StdError;
use std::io;

use millrace_core::error::{Error, Kind};
use tokio_postgres::error::DbError;

use crate::config::{Password, Settings, Tls};

/// The kind of an SQLSTATE. What is not listed is `Fatal`: an answer that nobody thought about must not
/// be retried into a gap. Codes: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
pub fn kind_of(sqlstate: &str) -> Kind {
    match sqlstate {
        // Passing states within classes that are not: lock not available, slot or object in use, read
        // error, a standby that is asked to write.
        "55P03" | "55006" | "58030" | "25006" => Kind::Transient,
        // The database was dropped; all slots are taken.
        "57P04" | "53400" => Kind::Config,
        _ => match sqlstate.get(..2) {
            // Connection, rolled back for serialisation or deadlock, out of resources, operator intervention.
            Some("08" | "40" | "53" | "57") => Kind::Transient,
            // Authorisation, unknown database or schema, syntax or access rule, not supported here.
            Some("28" | "3D" | "3F" | "42" | "0A") => Kind::Config,
            _ => Kind::Fatal,
        },
    }
}

/// A query failed. `what` says what it was for and on which object, in lower case.
pub fn query(what: impl Into<String>, error: tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(db) => answered(what, db),
        None if error.is_closed() || cause::<io::Error>(&error).is_some() => {
            Error::transient(what).source(error)
        }
        None => Error::fatal(what).source(error),
    }
}

/// What to type where a server offers no TLS.
pub const NO_TLS_HINT: &str = "switch TLS on at the server (ssl = on); sslmode = \"disable\" in \
     [source.postgres] sends everything, passwords too, in the clear";

/// What to type where a certificate does not convince.
const CERTIFICATE_HINT: &str = "away from this machine sslmode is verify-full unless the file says otherwise: \
     set sslrootcert to the PEM file of the authority that signed the server's certificate, and name the \
     host in url as the certificate does; sslmode = \"require\" encrypts and looks at nothing";

/// A TLS handshake failed.
pub fn tls(settings: &Tls, what: impl Into<String>, error: io::Error) -> Error {
    match certificate_kind(&error) {
        Some(kind) => certificate(settings, Error::new(kind, what).source(error)),
        None => Error::transient(what).source(error),
    }
}

/// A certificate did not convince. Ours and the roots lie in files, which are read anew for each connection,
/// so one that was changed on one side first is waited for.
fn certificate(settings: &Tls, error: Error) -> Error {
    let files = settings.files();
    if files.is_empty() {
        return error.hint(CERTIFICATE_HINT);
    }
    error.passing().hint(format!(
        "{files} in [source.postgres] are read again for every attempt: put the present ones there, no restart \
         is needed; {CERTIFICATE_HINT}"
    ))
}

/// The connection could not be made, or ended.
pub fn connection(settings: &Settings, error: tokio_postgres::Error) -> Error {
    let what = format!("cannot connect to postgres at {}", settings.place());
    if let Some(kind) = certificate_kind(&error) {
        return certificate(&settings.tls, Error::new(kind, what).source(error));
    }
    match error.as_db_error() {
        Some(db) => refused(settings, what, db),
        None if error.is_closed() || cause::<io::Error>(&error).is_some() => {
            Error::transient(what).source(error)
        }
        // What is left was decided here and not on the way: no password, no TLS, an unknown mechanism.
        None if settings.tls.mode.demands() => {
            Error::config(what).source(error).hint(format!("check password; {NO_TLS_HINT}"))
        }
        None => Error::config(what).source(error).hint("check password and sslmode in [source.postgres]"),
    }
}

/// The server's refusal at the door, with what to type.
pub fn refused(settings: &Settings, what: String, db: &DbError) -> Error {
    at_the_door(settings, answered(what, db), db.code().code())
}

/// The same, of an error that has our words already. A password or a certificate from a file may be about to
/// change there, so the next attempt reads it again; one that only a restart changes is the end.
pub fn at_the_door(settings: &Settings, error: Error, sqlstate: &str) -> Error {
    let Settings { user, database, .. } = settings;
    let hint = match sqlstate {
        "28P01" => match settings.password.as_ref().and_then(Password::files) {
            Some(files) => {
                return error.passing().hint(format!(
                    "the password of {user} in [source.postgres] comes from {files}, which is read again for \
                     every attempt: put the present one there, no restart is needed"
                ));
            }
            None => "check the user of url, and password, in [source.postgres]; one that is kept in a file, \
                     password = \"${file:/path}\", is changed without a restart"
                .to_owned(),
        },
        "28000" if settings.tls.client.is_some() => {
            return error.passing().hint(format!(
                "{} in [source.postgres] are read again for every attempt: do they name {user}, and does \
                 pg_hba.conf allow {user} (for database {database} and for replication)?",
                settings.tls.files()
            ));
        }
        "28000" => format!(
            "allow {user} in pg_hba.conf (for database {database} and for replication), or check the user of url"
        ),
        "3D000" => format!("check the database of url in [source.postgres], or: CREATE DATABASE {database}"),
        "42501" => format!("GRANT CONNECT ON DATABASE {database} TO {user}"),
        "53300" => "raise max_connections, or close connections that are not needed".to_owned(),
        _ => return error,
    };
    error.hint(hint)
}

/// An error of the server under our own words, classified.
pub fn answered(what: impl Into<String>, db: &DbError) -> Error {
    let detail = db.detail().map(|detail| format!("; {detail}")).unwrap_or_default();
    let cause = format!("{}{detail} (SQLSTATE {})", db.message(), db.code().code());
    let error = Error::new(kind_of(db.code().code()), what).source(cause);
    match db.hint() {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// The first error of this type in the chain of causes, looking into what an I/O error wraps.
fn cause<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// What a handshake that failed over a certificate needs: a changed file, or, where it is only a matter of
/// time or of the server's own trouble, to be tried again. `None`: it failed over something else.
fn certificate_kind(error: &(dyn StdError + 'static)) -> Option<Kind> {
    use rustls::{AlertDescription as Alert, CertificateError as Certificate, Error as Tls};
    match cause::<Tls>(error)? {
        Tls::InvalidCertificate(
            Certificate::Expired
            | Certificate::ExpiredContext { .. }
            | Certificate::NotValidYet
            | Certificate::NotValidYetContext { .. },
        )
        | Tls::AlertReceived(Alert::InternalError | Alert::UserCanceled) => Some(Kind::Transient),
        Tls::InvalidCertificate(_)
        | Tls::NoCertificatesPresented
        | Tls::UnsupportedNameType
        | Tls::InvalidCertRevocationList(_)
        | Tls::AlertReceived(_) => Some(Kind::Config),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_time_or_the_server_mends_is_tried_again() {
        let kind = |inner: rustls::Error| {
            super::tls(&crate::config::Tls::default(), "x", io::Error::other(inner)).kind()
        };
        use rustls::{AlertDescription as Alert, CertificateError as Certificate, Error as Tls};
        assert_eq!(kind(Tls::InvalidCertificate(Certificate::Expired)), Kind::Transient);
        assert_eq!(kind(Tls::AlertReceived(Alert::InternalError)), Kind::Transient);
        assert_eq!(kind(Tls::InvalidCertificate(Certificate::UnknownIssuer)), Kind::Config);
        assert_eq!(kind(Tls::AlertReceived(Alert::BadCertificate)), Kind::Config);
    }

    #[test]
    fn a_certificate_that_a_changed_file_mends_is_tried_again_and_names_the_file() {
        let settings = Tls { root_cert: Some("/run/ca.pem".into()), ..Tls::default() };
        let inner = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let error = tls(&settings, "x", io::Error::other(inner));
        assert_eq!(error.kind(), Kind::Transient);
        assert!(error.hint_text().is_some_and(|hint| hint.contains("sslrootcert /run/ca.pem")), "{error:?}");
    }

    #[test]
    fn every_listed_code_has_the_kind_that_says_what_to_do() {
        for (kind, codes) in [
            (
                Kind::Config,
                ["28P01", "28000", "3D000", "42501", "42704", "42P01", "0A000", "57P04", "53400"].as_slice(),
            ),
            (
                Kind::Transient,
                &[
                    "57P01", "57P02", "57P03", "57014", "08006", "53300", "53100", "55006", "55P03", "40P01",
                    "25006",
                ],
            ),
            (Kind::Fatal, &["XX000", "XX001", "22P02", "58P01", "55000", "23505", "", "?", "é"]),
        ] {
            for code in codes {
                assert_eq!(kind_of(code), kind, "{code}");
            }
        }
    }

    #[test]
    fn a_certificate_is_found_inside_an_io_error() {
        let inner = rustls::Error::NoCertificatesPresented;
        let outer = io::Error::new(io::ErrorKind::InvalidData, inner);
        assert!(cause::<rustls::Error>(&outer).is_some());
        assert!(cause::<rustls::Error>(&io::Error::other("reset")).is_none());
    }
}
