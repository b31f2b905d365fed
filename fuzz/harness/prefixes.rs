//! What holds for every decoder: it takes no more than there is, and it does
//! not change its mind when bytes come in pieces.

use std::fmt::Debug;

use midspan::protocol::Progress;

/// Decodes `bytes` whole and cut short, compares, and returns the first.
pub(crate) fn check<T, E>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<Progress<T>, E>,
) -> Result<Progress<T>, E>
where
    T: Debug + PartialEq,
    E: Debug + PartialEq,
{
    let whole = decode(bytes);
    if let Ok(Progress::Complete { consumed, .. }) = whole {
        assert!(
            (1..=bytes.len()).contains(&consumed),
            "consumed {consumed} of {}",
            bytes.len()
        );
    }
    for cut in cuts(bytes.len()) {
        let part = decode(&bytes[..cut]);
        match (&part, &whole) {
            (Ok(Progress::Partial { more_bytes_min }), Ok(Progress::Complete { consumed, .. })) => {
                assert!(
                    cut < *consumed,
                    "partial at {cut} though complete at {consumed}"
                );
                assert!(
                    (1..=consumed - cut).contains(more_bytes_min),
                    "{part:?} at {cut}"
                );
            }
            (Ok(Progress::Partial { more_bytes_min }), _) => assert_ne!(*more_bytes_min, 0),
            _ => assert_eq!(part, whole, "cut at {cut}"),
        }
    }
    whole
}

/// Every cut of short inputs, and of long ones those near both ends and some
/// between.
fn cuts(len: usize) -> impl Iterator<Item = usize> {
    let step = len / 64 + 1;
    (0..len).filter(move |cut| *cut < 64 || len - cut < 16 || cut % step == 0)
}
