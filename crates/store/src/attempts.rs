//! Attempts at labs: revealed hints, check runs, and results. They outlive their environments.

use faultline_domain::{
    AttemptId, EnvironmentId, LabSlug, PersonId,
    attempt::Attempt,
    check::{CheckResult, CheckRun},
};
use jiff::Timestamp;
use sqlx::FromRow;

use crate::{
    Result, Store,
    db::{count, micros, parse, time},
};

#[derive(FromRow)]
struct Row {
    id: String,
    person_id: String,
    lab: String,
    started_at: i64,
    finished_at: Option<i64>,
    gave_up: bool,
    practice: bool,
    points: Option<i64>,
    checks: i64,
}

#[derive(FromRow)]
struct ResultRow {
    name: String,
    title: String,
    passed: bool,
    message: String,
    seen: String,
    evaluated: bool,
    hint: Option<i64>,
    millis: i64,
}

impl ResultRow {
    fn read(self) -> Result<CheckResult> {
        Ok(CheckResult {
            name: self.name,
            title: self.title,
            passed: self.passed,
            message: self.message,
            seen: self.seen,
            evaluated: self.evaluated,
            hint: self.hint.map(|n| count("hint", n)).transpose()?,
            millis: u64::try_from(self.millis).unwrap_or_default(),
        })
    }
}

#[derive(FromRow)]
struct RunRow {
    id: String,
    started_at: i64,
    finished_at: Option<i64>,
    passed: Option<bool>,
    failure: Option<String>,
}

/// SQL: whether the person of attempt `a` gave up another attempt at the same lab before `a` was finished.
macro_rules! practice {
    () => {
        "EXISTS (SELECT 1 FROM attempts b WHERE b.person_id = a.person_id AND b.lab = a.lab AND b.id <> a.id \
         AND b.gave_up AND b.finished_at <= coalesce(a.finished_at, 9223372036854775807))"
    };
}

const SELECT: &str = concat!(
    "SELECT a.id, a.person_id, a.lab, a.started_at, a.finished_at, a.gave_up, ",
    practice!(),
    " AS practice, a.points, (SELECT count(*) FROM check_runs r WHERE r.attempt_id = a.id) AS checks \
     FROM attempts a WHERE "
);

fn select(condition: &'static str) -> sqlx::AssertSqlSafe<String> {
    sqlx::AssertSqlSafe(format!("{SELECT}{condition}"))
}

impl Store {
    async fn with_hints(&self, row: Row) -> Result<Attempt> {
        let hints: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT number, cost FROM hint_reveals WHERE attempt_id = $1 ORDER BY number",
        )
        .bind(&row.id)
        .fetch_all(&self.readers)
        .await?;
        Ok(Attempt {
            id: parse("attempt id", &row.id)?,
            person: parse("person id", &row.person_id)?,
            lab: parse("lab", &row.lab)?,
            started_at: time("attempt time", row.started_at)?,
            finished_at: row
                .finished_at
                .map(|at| time("attempt time", at))
                .transpose()?,
            gave_up: row.gave_up,
            practice: row.practice,
            points: row.points.map(|p| count("points", p)).transpose()?,
            hints: hints
                .into_iter()
                .map(|(number, cost)| Ok((count("hint", number)?, count("hint", cost)?)))
                .collect::<Result<_>>()?,
            checks: count("checks", row.checks)?,
        })
    }

    async fn all_with_hints(&self, rows: Vec<Row>) -> Result<Vec<Attempt>> {
        let mut all = Vec::with_capacity(rows.len());
        for row in rows {
            all.push(self.with_hints(row).await?);
        }
        Ok(all)
    }

    /// Returns an attempt.
    pub async fn attempt(&self, id: &AttemptId) -> Result<Option<Attempt>> {
        let row = sqlx::query_as::<_, Row>(select("a.id = $1"))
            .bind(id.as_str())
            .fetch_optional(&self.readers)
            .await?;
        match row {
            Some(row) => self.with_hints(row).await.map(Some),
            None => Ok(None),
        }
    }

    /// Returns a person's latest 500 attempts, newest first.
    pub async fn attempts_of(&self, person: &PersonId) -> Result<Vec<Attempt>> {
        let sql = select("a.person_id = $1 ORDER BY a.started_at DESC LIMIT 500");
        let rows: Vec<Row> = sqlx::query_as(sql)
            .bind(person.as_str())
            .fetch_all(&self.readers)
            .await?;
        self.all_with_hints(rows).await
    }

    /// Returns a person's latest 50 attempts at a lab, newest first.
    pub async fn attempts_at(&self, person: &PersonId, lab: &LabSlug) -> Result<Vec<Attempt>> {
        let sql = select("a.person_id = $1 AND a.lab = $2 ORDER BY a.started_at DESC LIMIT 50");
        let rows: Vec<Row> = sqlx::query_as(sql)
            .bind(person.as_str())
            .bind(lab.as_str())
            .fetch_all(&self.readers)
            .await?;
        self.all_with_hints(rows).await
    }

    /// Returns the labs that a person has solved without seeing the solution first.
    pub async fn solved_by(&self, person: &PersonId) -> Result<Vec<LabSlug>> {
        let labs: Vec<String> = sqlx::query_scalar(concat!(
            "SELECT DISTINCT a.lab FROM attempts a \
             WHERE a.person_id = $1 AND a.finished_at IS NOT NULL AND a.gave_up = $2 AND NOT ",
            practice!()
        ))
        .bind(person.as_str())
        .bind(false)
        .fetch_all(&self.readers)
        .await?;
        labs.iter().map(|lab| parse("lab", lab)).collect()
    }

    /// Reveals a hint. It costs points only once, and nothing if the attempt is finished.
    pub async fn reveal_hint(
        &self,
        attempt: &AttemptId,
        number: u32,
        cost: u32,
        now: Timestamp,
    ) -> Result<()> {
        sqlx::query(
            "INSERT INTO hint_reveals (attempt_id, number, cost, at) \
             SELECT $1, $2, CASE WHEN a.finished_at IS NULL THEN $3 ELSE 0 END, $4 \
             FROM attempts a WHERE a.id = $1 \
             ON CONFLICT (attempt_id, number) DO NOTHING",
        )
        .bind(attempt.as_str())
        .bind(i64::from(number))
        .bind(i64::from(cost))
        .bind(micros(now))
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// Ends an attempt as given up. Returns false if it has already ended.
    pub async fn give_up(&self, attempt: &Attempt, now: Timestamp) -> Result<bool> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "UPDATE attempts SET finished_at = $1, gave_up = $2, points = 0 \
             WHERE id = $3 AND finished_at IS NULL",
        )
        .bind(micros(now))
        .bind(true)
        .bind(attempt.id.as_str())
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        let who = Some(attempt.person.as_str());
        let (id, lab) = (attempt.id.as_str(), attempt.lab.as_str());
        crate::audit::insert(&mut tx, now, who, "give-up", id, lab).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Starts a check run.
    pub async fn begin_checks(
        &self,
        id: &str,
        attempt: &AttemptId,
        environment: &EnvironmentId,
        now: Timestamp,
    ) -> Result<()> {
        sqlx::query(
            "INSERT INTO check_runs (id, attempt_id, environment_id, started_at) \
             VALUES ($1, $2, $3, $4)",
        )
        .bind(id)
        .bind(attempt.as_str())
        .bind(environment.as_str())
        .bind(micros(now))
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// Records the result of one check of a run.
    pub async fn record_check(&self, run: &str, result: &CheckResult) -> Result<()> {
        sqlx::query(
            "INSERT INTO check_results (run_id, position, name, title, passed, message, seen, \
             evaluated, hint, millis) \
             SELECT $1, coalesce(max(position), 0) + 1, $2, $3, $4, $5, $6, $7, $8, $9 \
             FROM check_results WHERE run_id = $1",
        )
        .bind(run)
        .bind(&result.name)
        .bind(&result.title)
        .bind(result.passed)
        .bind(&result.message)
        .bind(&result.seen)
        .bind(result.evaluated)
        .bind(result.hint.map(i64::from))
        .bind(i64::try_from(result.millis).unwrap_or(i64::MAX))
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// Ends a check run. If all checks passed, the same transaction finishes the attempt with these points, unless it
    /// has already ended.
    pub async fn finish_checks(
        &self,
        run: &str,
        attempt: &Attempt,
        outcome: Result<bool, &str>,
        points: u32,
        now: Timestamp,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "UPDATE check_runs SET finished_at = $1, passed = $2, failure = $3 WHERE id = $4",
        )
        .bind(micros(now))
        .bind(outcome.unwrap_or(false))
        .bind(outcome.err())
        .bind(run)
        .execute(&mut *tx)
        .await?;
        // Keeps the results of the attempt's latest 20 runs. Older runs are only counted.
        sqlx::query(
            "DELETE FROM check_results WHERE run_id IN (SELECT id FROM check_runs \
             WHERE attempt_id = $1 ORDER BY started_at DESC LIMIT 10000 OFFSET 20)",
        )
        .bind(attempt.id.as_str())
        .execute(&mut *tx)
        .await?;
        if outcome == Ok(true) {
            let done = sqlx::query(
                "UPDATE attempts SET finished_at = $1, points = $2 \
                 WHERE id = $3 AND finished_at IS NULL",
            )
            .bind(micros(now))
            .bind(i64::from(points))
            .bind(attempt.id.as_str())
            .execute(&mut *tx)
            .await?;
            if done.rows_affected() > 0 {
                let who = Some(attempt.person.as_str());
                let (id, lab) = (attempt.id.as_str(), attempt.lab.as_str());
                crate::audit::insert(&mut tx, now, who, "solve", id, lab).await?;
            }
        }
        tx.commit().await?;
        Ok(())
    }

    /// Ends the check runs that were interrupted when the server stopped. Returns their number.
    pub async fn abandon_checks(&self, now: Timestamp) -> Result<u64> {
        let done = sqlx::query(
            "UPDATE check_runs SET finished_at = $1, passed = $2, failure = $3 \
             WHERE finished_at IS NULL",
        )
        .bind(micros(now))
        .bind(false)
        .bind("the server was restarted during the check; check again")
        .execute(&self.writer)
        .await?;
        Ok(done.rows_affected())
    }

    /// Returns the latest check run in an environment since it was created or last reset.
    pub async fn latest_checks(&self, environment: &EnvironmentId) -> Result<Option<CheckRun>> {
        let row = sqlx::query_as::<_, RunRow>(
            "SELECT id, started_at, finished_at, passed, failure FROM check_runs \
             WHERE environment_id = $1 AND started_at >= \
             (SELECT created_at FROM environments WHERE id = $1) \
             ORDER BY started_at DESC, id DESC LIMIT 1",
        )
        .bind(environment.as_str())
        .fetch_optional(&self.readers)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let results = sqlx::query_as::<_, ResultRow>(
            "SELECT name, title, passed, message, seen, evaluated, hint, millis \
             FROM check_results WHERE run_id = $1 ORDER BY position",
        )
        .bind(&row.id)
        .fetch_all(&self.readers)
        .await?;
        Ok(Some(CheckRun {
            id: row.id,
            started_at: time("check time", row.started_at)?,
            finished_at: row
                .finished_at
                .map(|at| time("check time", at))
                .transpose()?,
            passed: row.passed,
            failure: row.failure,
            results: results
                .into_iter()
                .map(ResultRow::read)
                .collect::<Result<_>>()?,
        }))
    }
}
