//! A connection and the transactions on it: where they begin and end, and what becomes of an error.
//!
//! READ COMMITTED with row locks in statements of their own for what writes (H18), one snapshot for what only reads. The
//! server's clock comes with the answer to `begin` (H40); where the last look at it was a moment ago, `begin` goes along
//! with the first question, and the clock is carried on until then.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio_postgres::Client;

use super::faults::Fault;
use super::pipe::{PgTx, Pipe, Trouble};
use crate::clock::Carried;
use crate::driver::{self, Job, Results};
use crate::op::OpError;
use crate::tx::Tx;

/// Longest time of one operation. The server's own limits are shorter; this is for a server that is silent.
const OPERATION_LIMIT: Duration = Duration::from_mins(1);
/// Longest wait for the answer of a commit.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

macro_rules! with_clock {
    ($text:literal) => {
        concat!($text, "; select (extract(epoch from clock_timestamp()) * 1000000)::bigint")
    };
}

const BEGIN_WRITING: &str = with_clock!("begin isolation level read committed");
const BEGIN_READING: &str = with_clock!("begin isolation level repeatable read read only");
// Several operations lock in no common order, and a deadlock is noticed only after a second. So a group that
// has to wait for long is taken apart instead.
const BEGIN_SEVERAL: &str = with_clock!("begin isolation level read committed; set local lock_timeout = '50ms'");

/// What came of a transaction.
pub(super) enum Outcome {
    /// Each job's answer; all that was done well is committed.
    Done(Results),
    /// Nothing is stored, and the same again may work.
    Again(OpError),
    /// Nothing is stored, and the connection is of no more use.
    Lost(OpError),
    /// The answer of the commit was lost, and the connection with it.
    Unknown(OpError),
}

/// A connection.
pub(super) struct Connection {
    pipe: Pipe,
    clock: Arc<Carried>,
}

impl Connection {
    pub(super) fn new(client: Client, clock: Arc<Carried>) -> Self {
        Self { pipe: Pipe::new(client, Arc::clone(&clock)), clock }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.pipe.client.is_closed()
    }

    /// Runs jobs in one transaction: what joins as one, and several such units each in a savepoint of its own.
    pub(super) async fn transact(&mut self, jobs: &[&dyn Job], reading: bool) -> Outcome {
        let units = driver::units(jobs);
        let several = units.len() > 1;
        self.pipe.begin(if reading {
            BEGIN_READING
        } else if several {
            BEGIN_SEVERAL
        } else {
            BEGIN_WRITING
        });
        if !self.clock.is_fresh()
            && let Err(trouble) = self.exchange().await
        {
            return self.give_up(trouble.fault).await;
        }
        let mut results: Results = jobs.iter().map(|_| Err(OpError::Unknown("no answer".to_owned()))).collect();
        for (number, unit) in units.into_iter().enumerate() {
            self.pipe.current = number;
            let before = (self.pipe.waiting(), self.pipe.exchanges);
            if several {
                self.pipe.control("savepoint op");
            }
            let of_unit: Vec<&dyn Job> = unit.iter().filter_map(|place| jobs.get(*place).copied()).collect();
            let (result, fault) = self.perform(&of_unit, several).await;
            let told = match (result, fault) {
                (_, Some(fault @ (Fault::Again(_) | Fault::Lost(_)))) => return self.give_up(fault).await,
                (_, Some(Fault::Busy(text))) if several => return self.give_up(Fault::Again(text)).await,
                // One of several that joined: by itself each gets its own.
                (_, Some(fault)) if of_unit.len() > 1 => return self.give_up(Fault::Again(fault.text().to_owned())).await,
                (Err(error), _) if of_unit.len() > 1 => return self.give_up(Fault::Again(error.to_string())).await,
                // An operation that goes on after a refusal cannot: the server has ended its part.
                (Ok(_), Some(fault)) => vec![Err(fault.error())],
                (Ok(told), None) => told,
                (Err(error), _) => vec![Err(error)],
            };
            let stores = told.iter().any(Result::is_ok);
            match told.as_slice() {
                [Err(error)] if !several => return self.refuse(error.clone()).await,
                // What is refused although it joined has written nothing.
                _ if !stores => self.take_back(before),
                _ if several => self.pipe.control("release op"),
                _ => {}
            }
            for (place, result) in unit.into_iter().zip(told) {
                if let Some(slot) = results.get_mut(place) {
                    *slot = result;
                }
            }
        }
        self.commit(results, several, reading).await
    }

    /// Takes an operation's part out of a group's transaction.
    fn take_back(&mut self, (waiting, exchanges): (usize, usize)) {
        if self.pipe.exchanges == exchanges {
            self.pipe.forget(waiting);
        } else {
            self.pipe.forget(0);
            self.pipe.control("rollback to op; release op");
        }
    }

    async fn commit(&mut self, results: Results, several: bool, reading: bool) -> Outcome {
        if reading {
            // Nothing hangs on its answer.
            self.pipe.control("commit");
            self.pipe.send_off();
            return Outcome::Done(results);
        }
        // What may turn out to be fenced must be known before.
        if self.pipe.is_in_question()
            && let Err(trouble) = self.exchange().await
        {
            return self.give_up(Fault::Again(trouble.fault.text().to_owned())).await;
        }
        self.pipe.control("commit");
        // An error of what was sent along has made a rollback of the commit.
        match self.exchange().await.map_err(|trouble| trouble.fault) {
            Ok(()) => Outcome::Done(results),
            Err(Fault::Lost(text)) => Outcome::Unknown(OpError::Unknown(text)),
            Err(Fault::Again(text)) => Outcome::Again(OpError::Database(text)),
            Err(fault) if several || results.len() > 1 => Outcome::Again(fault.error()),
            Err(fault) => Outcome::Done(vec![Err(fault.error())]),
        }
    }

    async fn refuse(&mut self, error: OpError) -> Outcome {
        if self.roll_back().await { Outcome::Done(vec![Err(error)]) } else { Outcome::Lost(error) }
    }

    async fn give_up(&mut self, fault: Fault) -> Outcome {
        let error = fault.error();
        match fault {
            Fault::Again(_) if self.roll_back().await => Outcome::Again(error),
            Fault::Refused(_) | Fault::Busy(_) | Fault::Fenced if self.roll_back().await => Outcome::Done(vec![Err(error)]),
            _ => Outcome::Lost(error),
        }
    }

    async fn roll_back(&mut self) -> bool {
        self.pipe.forget(0);
        if self.pipe.exchanges == 0 {
            return !self.is_closed();
        }
        self.pipe.control("rollback");
        self.exchange().await.is_ok()
    }

    /// Sends what waits; a server that does not answer is lost.
    async fn exchange(&mut self) -> Result<(), Trouble> {
        let of = self.pipe.current;
        let silent = || Trouble { fault: Fault::Lost("the server does not answer".to_owned()), of };
        tokio::time::timeout(ANSWER_LIMIT, self.pipe.exchange()).await.unwrap_or_else(|_| Err(silent()))
    }

    /// Looks at the server's clock outside of a transaction.
    pub(super) async fn look(&mut self) -> Result<(), String> {
        let looked = tokio::time::timeout(ANSWER_LIMIT, self.pipe.look_at_clock(with_clock!(""))).await;
        let looked = looked.map_err(|_| "the server does not answer".to_owned())?;
        looked.map(drop).map_err(|fault| fault.text().to_owned())
    }

    /// Runs a unit; one that is alone ends with what it has sent being answered, as far as that can refuse it.
    async fn perform(&mut self, jobs: &[&dyn Job], several: bool) -> (Result<Results, OpError>, Option<Fault>) {
        let name = jobs.first().map_or("", |job| job.name());
        let mut raw = PgTx { pipe: &mut self.pipe, now: self.clock.now(), fault: None };
        let outcome = {
            let mut tx = Tx::new(&mut raw);
            // Why caught: one operation's fault must not take the connection's task away from all others.
            tokio::time::timeout(OPERATION_LIMIT, AssertUnwindSafe(driver::run_unit(jobs, &mut tx)).catch_unwind()).await
        };
        match outcome {
            Ok(Ok(Ok(told))) if !several && raw.pipe.is_in_question() => {
                let answer = tokio::time::timeout(OPERATION_LIMIT, raw.finish()).await;
                let silent = |_| Err(OpError::Database("the server does not answer".to_owned()));
                let answer = answer.unwrap_or_else(silent);
                let fault = raw.fault.take();
                let lost = || Fault::Lost("the server does not answer".to_owned());
                let fault = if answer.is_err() { Some(fault.unwrap_or_else(lost)) } else { fault };
                (answer.map(|()| told), fault)
            }
            Ok(Ok(result)) => (result, raw.fault),
            Ok(Err(cause)) => {
                let text = cause.downcast_ref::<String>().map(String::as_str).or_else(|| cause.downcast_ref::<&str>().copied());
                let text = format!("operation {name} panicked: {}", text.unwrap_or("without a text"));
                (Err(OpError::Corrupt(text)), raw.fault)
            }
            Err(_) => {
                let text = format!("operation {name} took longer than {} s", OPERATION_LIMIT.as_secs());
                (Err(OpError::Database(text.clone())), Some(Fault::Lost(text)))
            }
        }
    }
}
