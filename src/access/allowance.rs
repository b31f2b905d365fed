//! What single users may, beside what all may: their own egress rules, and limits in place
//! of everybody's.

use std::collections::HashMap;
use std::sync::Arc;

use ahash::RandomState;

use super::egress::Rule;
use crate::protocol::jproxy::Dialect;

/// What some users may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Rules that are asked before the relay's.
    pub egress: Vec<Rule>,
    /// Their sessions at once, each user's; 0 is no limit, `None` everybody's.
    pub sessions_max: Option<u32>,
    /// What is dialled for each in a minute; as above.
    pub dials_per_minute_max: Option<u32>,
    /// How many of each may await somebody at once; 0 is none, `None` everybody's.
    pub binds_max: Option<u32>,
    /// How the packets of each one's tunnels are written, by jProxy; `None` as everybody's.
    pub dialect: Option<Dialect>,
}

/// Every allowance, with its users. All shards have the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowances(Arc<Tables>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Tables {
    tables: Vec<(Vec<String>, Allowance)>,
    /// Indices, by user.
    of: HashMap<String, usize, RandomState>,
}

impl Allowances {
    /// These. No user is in two of them.
    #[must_use]
    pub fn new(tables: Vec<(Vec<String>, Allowance)>) -> Self {
        let named = |(index, (users, _)): (usize, &(Vec<String>, _))| {
            let users = users.clone();
            users.into_iter().map(move |user| (user, index))
        };
        let of = tables.iter().enumerate().flat_map(named).collect();
        Self(Arc::new(Tables { tables, of }))
    }

    /// Each with its users, in the order in which they were given.
    #[must_use]
    pub fn all(&self) -> &[(Vec<String>, Allowance)] {
        &self.0.tables
    }

    /// A user's own, if it has one.
    #[must_use]
    pub fn of(&self, user: &str) -> Option<&Allowance> {
        let index = self.0.of.get(user)?;
        self.0.tables.get(*index).map(|(_, allowance)| allowance)
    }
}
