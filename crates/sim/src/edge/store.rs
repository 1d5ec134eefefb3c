//! The database as one process sees it: it may refuse, lose the answer of a commit, or take its time.
//!
//! What has left the process is done whatever becomes of it: so a job crosses in a task of its own, and a killed process
//! may have committed what it never learned. After every commit [`crate::watch`] looks.

use std::sync::Arc;

use provisor_core::Timestamp;
use provisor_store::driver::{Driver, Job};
use provisor_store::tx::Answer;
use provisor_store::{Mode, OpError};
use tokio::sync::oneshot;

use crate::node::Life;
use crate::plan::{Database, Trouble};
use crate::property::Property;
use crate::stage::Stage;

/// The way of one process to the database.
pub(crate) struct Edge {
    stage: Arc<Stage>,
    life: Arc<Life>,
}

impl Edge {
    pub(crate) fn new(stage: Arc<Stage>, life: Arc<Life>) -> Self {
        Self { stage, life }
    }

    fn trouble(&self, name: &str, count: u32) -> Option<Database> {
        let fits = |t: &Trouble| {
            matches!(t, Trouble::Database { node, operation, nth, .. }
                if *node == self.life.node && operation == name && *nth == count)
        };
        let found = self.stage.strike(fits)?;
        self.stage.concern(found.word(), name, &self.life);
        if let Trouble::Database { how, .. } = found { Some(how.clone()) } else { None }
    }
}

impl Driver for Edge {
    fn run(&self, job: Arc<dyn Job>) -> Answer<'_, ()> {
        Box::pin(async move {
            let (name, writes) = (job.name(), job.mode() == Mode::Write);
            let count = self.stage.count(self.life.node, name);
            self.life.cross(&self.stage, true, name, count).await;
            let trouble = self.trouble(name, count);
            let lost = trouble == Some(Database::Lost);
            if trouble == Some(Database::Refused) || (lost && !writes) {
                return Err(OpError::Database(format!("{name}: made to fail")));
            }
            let mut pause = self.stage.pause(&format!("{} {name}", self.life.node), count);
            if let Some(Database::Slow(ms)) = trouble {
                pause += std::time::Duration::from_millis(ms);
            }
            let answer = if pause.is_zero() {
                perform(&self.stage, &self.life, job).await
            } else {
                let (told, answer) = oneshot::channel();
                let (stage, life) = (Arc::clone(&self.stage), Arc::clone(&self.life));
                tokio::spawn(async move {
                    tokio::time::sleep(pause).await;
                    // Nobody may be left to be told.
                    let _ = told.send(perform(&stage, &life, job).await);
                });
                answer.await.unwrap_or_else(|_| Err(OpError::Unknown(format!("{name}: the run is over"))))
            };
            self.life.cross(&self.stage, false, name, count).await;
            if lost && answer.is_ok() {
                return Err(OpError::Unknown(format!("{name}: made to lose its answer")));
            }
            answer
        })
    }

    fn now(&self) -> Timestamp {
        self.stage.base.now()
    }
}

/// Does it, and looks at what it did.
async fn perform(stage: &Arc<Stage>, life: &Life, job: Arc<dyn Job>) -> Result<(), OpError> {
    let (name, writes) = (job.name(), job.mode() == Mode::Write);
    let answer = stage.base.run(job).await;
    stage.note(|| format!("{} {name} {}", life.name(), answer.as_ref().map_or_else(ToString::to_string, |()| "ok".to_owned())));
    if let Err(OpError::Corrupt(text)) = &answer {
        stage.breach(Property::Readable, format!("{name}: {text}"));
    }
    if writes && answer.is_ok() {
        stage.look(name, life).await;
    }
    answer
}
