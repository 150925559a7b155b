"""Before anything is sent: the plan against the checkpoint, and what of it is to be sent."""

from __future__ import annotations

from dataclasses import asdict

import polars as pl

from pipeline.errors import RunPaused, SpecError
from pipeline.job import Job
from pipeline.ledger import Totals
from pipeline.onerun import Known, OneRun
from pipeline.plan import (
    ALL_KINDS,
    Plan,
    Standing,
    kept_keys,
    keys_name,
    list_keys,
    make,
    no_keys,
    since_last_run,
    stand,
)
from pipeline.progress import money
from pipeline.storage.keys import Keys
from pipeline.storage.snapshot import Snapshot
from pipeline.work import INPUT_CHANGED, Work


class Before(OneRun):
    """The part of a run that looks, and changes nothing but the kept list of keys."""

    def _look(self, fingerprint: str) -> Known:
        """Plan against the checkpoint; a fresh job is not looked at row by row before its rows are sent."""
        checkpoint, job = self.checkpoint, self.job
        rows = job.source.count()
        snapshot = Snapshot(checkpoint.layout.folder, checkpoint.job.job, self.files)
        # Files may change before their row is sent: then its key, made of what was there, is not made again.
        # Which rows are copies, all the keys together tell.
        # In several processes a key can be made where the row is rendered, if it depends on no other row.
        alone = self.options.processes == 1 or job.spec.input.id is not None
        if not len(snapshot) and not job.attach.reads_files and not job.spec.dedupe and alone:
            keys = no_keys(job)
            plan = Plan.fresh(rows)
            return Known(fingerprint, keys, plan, None, Totals(), rows, True, since_last_run(plan, None, None))
        kept = kept_keys(job, self.files, checkpoint.layout.keys, fingerprint)
        if kept is None and job.attach.reads_files:
            self.say(f"{job.spec.name}: looking at the attached files of {rows} rows, to know what is to be asked")
        keys = list_keys(job, kept)
        if self._changed():
            raise RunPaused(INPUT_CHANGED)
        listed_before = kept or Keys.load(self.files, checkpoint.layout.keys, None, has_ids=True)
        if kept is None:
            keys.save(self.files, checkpoint.layout.keys, keys_name(job, fingerprint))
        standing, gone = stand(keys, snapshot)
        plan = make(
            job,
            standing,
            gone,
            snapshot,
            wish=self.wish,
            asked_before=checkpoint.job.question,
        )
        self.log.info("plan", **asdict(plan))
        self._tell_unknown_kind(standing)
        if plan.expired > plan.expired_again:
            self.say(expired_words(job, plan.expired))
        fresh = not plan.done and not gone["answered"].any()
        since = since_last_run(plan, gone, listed_before)
        replies = snapshot.kept(self._replies_since())
        unfetched = snapshot.unfetched() if job.media is not None and job.media.download else {}
        return Known(fingerprint, keys, plan, standing, snapshot.totals(), len(keys), fresh, since, replies, unfetched)

    def _replies_since(self) -> float:
        """A refresh goes on from no reply that has expired itself."""
        return (self.wish.expired_before or 0.0) if self.wish.refresh_expired else 0.0

    def _tell_unknown_kind(self, standing: Standing) -> None:
        kinds = standing.table.filter(~pl.col("answered"))["kind"].unique().drop_nulls().sort().to_list()
        if self.options.retry_failed not in (None, ALL_KINDS, *kinds):
            there = f"there are: {', '.join(kinds)}" if kinds else "no row has failed"
            self.say(f"--retry-failed {self.options.retry_failed}: no row failed with this kind; {there}")

    def _refuse_buying_again(self, plan: Plan) -> None:
        if not plan.again or self.options.accept_changes:
            return
        snapshot = Snapshot(self.checkpoint.layout.folder, self.checkpoint.job.job, self.files)
        each = snapshot.totals()
        cost = each.cost(self.job.prices)
        price = "at an unknown price" if cost is None else f"for about {money(cost / max(1, each.billed) * plan.again)}"
        raise SpecError(
            f"the prompt, the model or its parameters changed: {plan.again} rows that have their answer would be asked "
            f"again, {price}; nothing was sent. Run with --accept-changes to buy them, or undo the change; the old "
            "answers are kept either way"
        )

    def _work(self, known: Known) -> Work:
        if known.standing is None:
            return Work(known.rows, 0, 0, known.rows, 0, None, changed=self._changed)
        to_do = known.standing.to_do(self.wish)
        failed = known.standing.each(pl.col("answered").eq(False).fill_null(False))
        renewed = known.standing.each(self.wish.renews())
        plan = known.plan
        left_alone = known.standing.table.filter(~self.wish.to_do())
        statuses, kinds, _ = count(left_alone)
        return Work(
            plan.rows - plan.copies,
            plan.done - plan.expired_again,
            plan.failed_kept,
            plan.to_send,
            max(0, to_do.find(1)),
            lambda ordinal: to_do[ordinal] == 1,
            lambda ordinal: failed[ordinal] == 1,
            self._changed,
            known.fresh,
            kept=known.kept,
            renews=lambda ordinal: renewed[ordinal] == 1,
            statuses=statuses,
            kinds=kinds,
            unfetched=known.unfetched,
            copies=plan.copies,
        )


def count(table: pl.DataFrame) -> tuple[dict[str, int], dict[str, int], int]:
    """Rows by status, failed rows by kind, and how many of these a rerun tries again."""
    by_status = table.group_by(pl.col("status").fill_null("pending")).agg(pl.len()).sort("status")
    failed = table.filter(~pl.col("answered"))
    by_kind = failed.group_by("kind").agg(pl.len()).sort("kind")
    transient = int((~failed["permanent"]).sum())
    return dict(by_status.iter_rows()), dict(by_kind.iter_rows()), transient


def expired_words(job: Job, count: int) -> str:
    return f"{count} answers are older than {job.spec.expire}; --refresh-expired asks them again"
