//! Who a request says it is for. Web pages must not reach the API through a name of theirs that
//! resolves to this machine (DNS rebinding), nor through a form that posts to it.

use super::api::Refusal;
use hyper::header::{HOST, HeaderMap, HeaderValue, ORIGIN};
use hyper::{StatusCode, Uri};

/// Names that no resolver outside of this machine gives away.
const NAMES: [&str; 5] = ["localhost", "selvedge", "unix", "unix-socket", "."];

/// An error when Host, target or Origin names another place than this machine.
pub(super) fn check(uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
    let elsewhere = |what: &str| {
        let text = format!("{what} names another machine; use localhost, 127.0.0.1, [::1] or none");
        Refusal::new(StatusCode::MISDIRECTED_REQUEST, text)
    };
    if uri.authority().is_some_and(|authority| !is_local(authority.as_str())) {
        return Err(elsewhere("the request's address"));
    }
    if headers.get_all(HOST).iter().any(|host| !is_local_value(host)) {
        return Err(elsewhere("the Host header"));
    }
    let foreign = |origin: &HeaderValue| {
        let text = origin.to_str().unwrap_or("?");
        !text.split_once("://").is_some_and(|(_, host)| !host.is_empty() && is_local(host))
    };
    if headers.get_all(ORIGIN).iter().any(foreign) {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "web pages of other origins are not served"));
    }
    Ok(())
}

fn is_local_value(value: &HeaderValue) -> bool {
    value.to_str().is_ok_and(is_local)
}

/// `name`, `name:port`, `127.x.y.z`, `[::1]:port`, or nothing.
fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    if let Some(v6) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return v6.parse::<std::net::Ipv6Addr>().is_ok_and(|ip| ip.is_loopback());
    }
    let loopback = name.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_loopback());
    name.is_empty() || loopback || NAMES.iter().any(|local| name.eq_ignore_ascii_case(local))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for host in ["", "localhost", "LocalHost:8000", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:8000", "unix"] {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:80",
            "192.168.0.7",
            "[fe80::1]",
            "localhost:80:80",
            "localhost:x",
            "user@localhost",
            "0.0.0.0",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }

    #[test]
    fn a_page_of_another_origin_is_refused_and_a_local_one_is_not() {
        let check_origin = |origin: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ORIGIN, HeaderValue::from_static(origin));
            check(&Uri::from_static("/v2"), &headers)
        };
        assert!(check_origin("http://localhost:3000").is_ok());
        for origin in ["https://evil.example", "null", "file://", ""] {
            assert_eq!(check_origin(origin).unwrap_err().status, StatusCode::FORBIDDEN, "{origin}");
        }
        let absolute = Uri::from_static("http://evil.example/v2");
        assert_eq!(check(&absolute, &HeaderMap::new()).unwrap_err().status, 421);
    }
}
