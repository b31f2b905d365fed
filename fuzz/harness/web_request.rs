//! `web`: a request finds a page by its name, and whatever stands in it leads to no other
//! host and ends no line.

use std::sync::Arc;

use midspan::protocol::Progress;
use midspan::protocol::http_head::{
    HeadPolicy, HeaderSlots, Persistence, RequestHead, ResponseHead,
};
use midspan::web::{Tree, Web, WebRequest};

const SITE: &str = "https://example.com";

pub(crate) fn run(data: &[u8]) {
    let mut slots = HeaderSlots::<16>::new();
    let Ok(Progress::Complete { value: head, .. }) =
        RequestHead::decode(data, HeadPolicy::HTTP, &mut slots)
    else {
        return;
    };
    let Some(request) = WebRequest::from_head(&head) else {
        return;
    };
    let mut tree = Tree::new("/srv/www".into());
    for name in ["index.html", "a/index.html", "a/b c/index.html", "c.html"] {
        tree.insert(name.to_owned(), name.as_bytes().to_vec(), None);
    }
    let redirect = Web::Redirect(SITE.parse().expect("a site"));
    let location = location(&redirect, &request).expect("redirects lead somewhere");
    let path = location.strip_prefix(SITE).expect("the site stays");
    assert!(path.starts_with('/'), "{path:?}");
    assert!(path.bytes().all(|byte| byte.is_ascii_graphic()), "{path:?}");

    if let Some(path) = self::location(&Web::Tree(Arc::new(tree)), &request) {
        assert!(path.starts_with("/a/"), "{path:?}");
        assert!(path.bytes().all(|byte| byte.is_ascii_graphic()), "{path:?}");
    }
}

/// Where an answer leads, if there is one and it leads anywhere. It is one response.
fn location(web: &Web, request: &WebRequest) -> Option<String> {
    let answer = web.answer(request).ok()?;
    let wire = answer.encode_head(Persistence::KeepAlive);
    let mut slots = HeaderSlots::<16>::new();
    // A location may be longer than a head that we would take.
    let policy = HeadPolicy {
        bytes_max: wire.len(),
        ..HeadPolicy::HTTP
    };
    let decoded = ResponseHead::decode(&wire, policy, &mut slots);
    let Ok(Progress::Complete { value, consumed }) = decoded else {
        panic!("no response: {decoded:?}");
    };
    assert_eq!(consumed, wire.len(), "a line was ended too early");
    assert!(value.headers.len() <= 6, "{:?}", value.headers);
    let location = value.headers.find("Location")?;
    Some(String::from_utf8(location.to_vec()).expect("text"))
}
