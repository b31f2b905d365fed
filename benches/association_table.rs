//! The association table: one rendezvous from accept to end, and look-ups in a
//! table of 10,000 associations.

use std::hint::black_box;

use ahash::RandomState;
use criterion::{Criterion, criterion_group, criterion_main};
use midspan::association::key::{AssociationKey, RendezvousKey};
use midspan::association::table::{Limits, OnUnknown, Table};
use midspan::time::Timestamp;
use uuid::Uuid;

const ASSOCIATIONS: u128 = 10_000;

fn rendezvous(c: &mut Criterion) {
    for held in [0, ASSOCIATIONS] {
        let mut table = table_of(held);
        let mut id = held;
        c.bench_function(&format!("accept, connect, end beside {held}"), |b| {
            b.iter(|| {
                id += 1;
                let accepted = table.accept(key(id), 1, OnUnknown::Create, Timestamp::default());
                let joined = table.connect(key(id), Timestamp::default());
                let ended = joined.map(|joined| table.session_ended(joined.candidate));
                assert!(accepted.is_ok() && ended == Ok(Ok(())));
            });
        });
    }
}

fn look_up(c: &mut Criterion) {
    let table = table_of(ASSOCIATIONS);
    for (name, first) in [("known", 0), ("unknown", ASSOCIATIONS)] {
        let mut n = 0;
        c.bench_function(&format!("look up {name} among {ASSOCIATIONS}"), |b| {
            b.iter(|| {
                // A stride prime to the count, so that neighbours are not neighbours.
                n = (n + 7_919) % ASSOCIATIONS;
                black_box(table.test(key(first + n), Timestamp::default()))
            });
        });
    }
}

fn table_of(associations: u128) -> Table<u64> {
    let mut table = Table::new(Limits::default(), RandomState::with_seeds(1, 2, 3, 4));
    for id in 0..associations {
        let accepted = table.accept(key(id), 0, OnUnknown::Create, Timestamp::default());
        assert!(accepted.is_ok());
    }
    table
}

fn key(id: u128) -> RendezvousKey {
    RendezvousKey {
        association: AssociationKey(Uuid::from_u128(id)),
        candidate: None,
    }
}

criterion_group!(benches, rendezvous, look_up);
criterion_main!(benches);
