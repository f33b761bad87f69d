//! Why no request got to the registry: it is away, or it did not prove who it is. Start at `unreached`.

use std::error::Error as StdError;
use std::io;
use std::path::Path;

use millrace_core::error::Error;
use reqwest::Url;
use rustls::CertificateError;

/// The error for a request that was not answered. All of it may pass, and the certificates are read again for the
/// next attempt.
pub fn unreached(what: String, url: &Url, ca_file: Option<&Path>, error: reqwest::Error) -> Error {
    let hint = certificate(&error).map(|why| untrusted(why, url, ca_file));
    let hint = hint.unwrap_or_else(|| "start the registry, or correct its url".to_owned());
    Error::transient(what).source(error.without_url()).hint(hint)
}

fn untrusted(why: &CertificateError, url: &Url, ca_file: Option<&Path>) -> String {
    use CertificateError as Why;
    let host = url.host_str().unwrap_or_default();
    match why {
        Why::NotValidForName | Why::NotValidForNameContext { .. } => format!(
            "its certificate does not name {host}: write a host that it names into registry, or give the registry a \
             certificate for {host}"
        ),
        Why::Expired | Why::ExpiredContext { .. } | Why::NotValidYet | Why::NotValidYetContext { .. } => {
            "give the registry a certificate that is valid today, or set this machine's clock right"
                .to_owned()
        }
        _ => match ca_file {
            Some(file) => format!(
                "put the certificate of the registry's authority into registry_ca_file {}, which is read again for \
                 every attempt: no restart is needed",
                file.display()
            ),
            None => {
                "set registry_ca_file in [format] to the certificate of the registry's authority".to_owned()
            }
        },
    }
}

/// Looks into what an I/O error wraps, too.
fn certificate<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a CertificateError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(rustls::Error::InvalidCertificate(why)) = error.downcast_ref() {
            return Some(why);
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_certificate_that_does_not_convince_has_a_remedy_of_its_own() {
        let url = Url::parse("https://registry:8081").unwrap();
        let file = Path::new("/run/ca.pem");
        let hint = |why, file| {
            let error = io::Error::other(io::Error::other(rustls::Error::InvalidCertificate(why)));
            untrusted(certificate(&error).unwrap(), &url, file)
        };
        assert!(hint(CertificateError::UnknownIssuer, Some(file)).contains("/run/ca.pem"));
        assert!(hint(CertificateError::UnknownIssuer, None).contains("registry_ca_file"));
        assert!(hint(CertificateError::NotValidForName, Some(file)).contains("does not name registry"));
        assert!(hint(CertificateError::Expired, Some(file)).contains("valid today"));
    }

    #[test]
    fn what_failed_over_something_else_has_no_certificate() {
        assert!(certificate(&io::Error::other("refused")).is_none());
    }
}
