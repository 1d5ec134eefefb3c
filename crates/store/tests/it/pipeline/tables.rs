//! All that is stored, as it lies in the tables, so that a test can say "nothing changed" and mean it.

use provisor_store::tx::{Stmt, both};
use provisor_store::value::{Row, Val};
use provisor_store::{Mode, Op, OpError, Store, Tx};

/// The rows of every table by its name.
pub type Tables = Vec<(&'static str, Vec<Row>)>;

static TABLES: [(&str, Stmt); 11] = [
    ("meta", both("select * from meta order by name")),
    ("tenant", both("select * from tenant order by id")),
    ("cluster", both("select * from cluster order by ordinal")),
    ("request", both("select * from request order by id")),
    ("label", both("select * from label order by request, name")),
    ("dependency", both("select * from dependency order by request, prerequisite")),
    ("resource", both("select * from resource order by id")),
    ("event", both("select * from event order by position")),
    ("reader", both("select * from reader order by name")),
    ("idempotency", both("select * from idempotency order by scope, route, key")),
    ("token", both("select * from token order by id")),
];

/// Every row of every table in one consistent state.
struct Dump;

impl Op for Dump {
    type Out = Tables;
    const NAME: &'static str = "dump";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Tables, OpError> {
        let mut all = Vec::new();
        for (name, stmt) in &TABLES {
            all.push((*name, tx.rows(stmt, &[]).await?));
        }
        Ok(all)
    }
}

pub async fn read(store: &Store) -> Tables {
    store.run(Dump).await.unwrap()
}

/// The same, told by the first row that differs.
pub fn assert_same(one: &Tables, other: &Tables) {
    for ((name, left), (_, right)) in one.iter().zip(other) {
        for (row, (a, b)) in left.iter().zip(right).enumerate() {
            assert_eq!(a, b, "{name}, row {row}");
        }
        assert_eq!(left.len(), right.len(), "rows of {name}");
    }
}

/// Any statement, for what no operation offers.
pub struct Sql(pub &'static Stmt, pub Vec<Val>);

impl Op for Sql {
    type Out = Vec<Row>;
    const NAME: &'static str = "sql";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<Row>, OpError> {
        tx.rows(self.0, &self.1).await
    }
}

static ROW: Stmt = both("select due_at, worker, generation, attention from request where id = ?1");

/// What the row of a request says besides its document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRow {
    pub due_at: i64,
    pub worker: Option<String>,
    pub generation: i64,
    pub attention: bool,
}

pub async fn row_of(store: &Store, id: provisor_core::RequestId) -> RequestRow {
    let rows = store.run(Sql(&ROW, vec![id.into()])).await.unwrap();
    let row = &rows[0];
    RequestRow {
        due_at: row.int(0).unwrap(),
        worker: row.opt_text(1).unwrap().map(str::to_owned),
        generation: row.int(2).unwrap(),
        attention: row.int(3).unwrap() != 0,
    }
}
