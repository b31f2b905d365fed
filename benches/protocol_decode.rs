//! What a handshake costs in its protocol core: decode one request, encode
//! one reply. And what masking costs, beside a copy of as many bytes.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use midspan::protocol::Progress;
use midspan::protocol::jet::{
    Accept, AcceptDetails, AcceptPlace, Connect, Gate, HostName, MASK_DEFAULT, Message, Place,
    Reply, Request, Status, Version,
};
use midspan::protocol::websocket::MaskKey;
use uuid::Uuid;

const PLACE: Place = Place {
    association: Uuid::from_u128(1),
    candidate: Some(Uuid::from_u128(2)),
};

fn jet(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("jet");
    let host = HostName::new("relay.example.net").expect("a valid name");

    let minted = Message::Accept(Accept {
        place: AcceptPlace::Minted,
        gate: Gate::Hold,
    });
    let connect = Message::Connect(Connect {
        place: PLACE,
        gate: Gate::Hold,
    });
    for (name, message, version) in [
        ("decode_request_v1_accept", minted, Version::V1),
        ("decode_request_v2_connect", connect, Version::V2),
    ] {
        let request = Request {
            message,
            version,
            mask: MASK_DEFAULT,
        };
        let packet = request.encode(&host);
        group.bench_function(name, |bencher| {
            bencher.iter(|| match Request::decode(black_box(packet.as_bytes())) {
                Ok(Progress::Complete { value, .. }) => value,
                other => panic!("{other:?}"),
            });
        });
    }

    let details = AcceptDetails {
        association: PLACE.association,
        instance: Some(host),
        timeout_s: Some(300),
    };
    for (name, version, details) in [
        ("encode_reply_v1_accept", Version::V1, Some(details)),
        ("encode_reply_v2", Version::V2, None),
    ] {
        let reply = Reply {
            status: Status::OK,
            version,
            details,
        };
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(&reply).encode(black_box(MASK_DEFAULT)));
        });
    }
    group.finish();
}

fn websocket(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("websocket");
    let mut payload = vec![7; 16 << 10];
    let mut elsewhere = payload.clone();
    group.throughput(Throughput::Bytes(payload.len() as u64));
    group.bench_function("mask_16k", |bencher| {
        bencher.iter(|| black_box(MaskKey([1, 2, 3, 4])).apply(black_box(&mut payload)));
    });
    group.bench_function("copy_16k", |bencher| {
        bencher.iter(|| black_box(&mut elsewhere).copy_from_slice(black_box(&payload)));
    });
    group.finish();
}

criterion_group!(benches, jet, websocket);
criterion_main!(benches);
