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
    go_on,
    kept_keys,
    keys_name,
    list_keys,
    make,
    no_keys,
    since_last_run,
    stand,
)
from pipeline.progress import money
from pipeline.stand import count_ended
from pipeline.storage.keys import Keys
from pipeline.storage.snapshot import Snapshot
from pipeline.work import INPUT_CHANGED, Work


class Before(OneRun):
    """The part of a run that looks, and changes nothing but the kept list of keys."""

    def _look(self, fingerprint: str) -> Known:
        """Plan against the checkpoint; a fresh job is not looked at row by row before its rows are sent."""
        checkpoint, job = self.checkpoint, self.job
        several = self.options.processes > 1
        snapshot = Snapshot(checkpoint.layout.folder, checkpoint.job.job, self.files)
        kept = kept_keys(job, self.files, checkpoint.layout.keys, fingerprint)
        # Several processes go on from a whole list alone: none of them makes keys of rows between others'.
        looked = kept is not None or several
        cut_off = None if looked else go_on(job, self.files, checkpoint.layout, fingerprint, snapshot)
        if kept is None and cut_off is None:
            job.source.check_ids()  # no list is begun before that
        rows = len(kept) if kept is not None else cut_off.rows if cut_off is not None else job.source.count()
        # Files may change before their row is sent: then its key, made of what was there, is not made again.
        # Which rows are copies, all the keys together tell.
        # In several processes a key can be made where the row is rendered, if it depends on no other row.
        alone = not several or job.spec.input.id is not None
        if not len(snapshot) and not job.attach.reads_files and not job.spec.dedupe and alone:
            keys = no_keys(job)
            if not several:
                self._begin(keys, fingerprint, rows)
            plan = Plan.fresh(rows)
            since = since_last_run(plan, None, None)
            return Known(fingerprint, keys, plan, None, Totals(), rows, False, True, since)
        if kept is None and job.attach.reads_files:
            self.say(f"{job.spec.name}: looking at the attached files of {rows} rows, to know what is to be asked")
        keys = cut_off.keys if cut_off is not None else list_keys(job, kept)
        if self._changed():
            raise RunPaused(INPUT_CHANGED)
        listed_before = kept or Keys.load(self.files, checkpoint.layout.keys, None, has_ids=True)
        if cut_off is not None:
            self._begin(keys, fingerprint, rows)
        elif kept is None:
            keys.save(self.files, checkpoint.layout.keys, keys_name(job, fingerprint))
        standing, gone = (cut_off.standing, cut_off.gone) if cut_off is not None else stand(keys, snapshot)
        asked_before = checkpoint.job.question
        plan = make(job, standing, gone, snapshot, wish=self.wish, asked_before=asked_before, rows=rows)
        self.log.info("plan", **asdict(plan))
        self._tell_unknown_kind(standing)
        if plan.expired > plan.expired_again:
            self.say(expired_words(job, plan.expired))
        fresh = not plan.done and not gone.any(pl.col("answered"))
        since = since_last_run(plan, gone, listed_before)
        replies = snapshot.kept(self._replies_since())
        unfetched = snapshot.unfetched() if job.downloads else {}
        totals, listed = snapshot.totals(), cut_off is None
        seen = snapshot, gone
        return Known(fingerprint, keys, plan, standing, totals, rows, listed, fresh, since, replies, unfetched, seen)

    def _begin(self, keys: Keys, fingerprint: str, rows: int) -> None:
        """What is listed while rows are sent outlives this process."""
        if fingerprint:
            keys.begin(self.files, self.checkpoint.layout.begun, keys_name(self.job, fingerprint), rows)

    def _replies_since(self) -> float:
        """A refresh goes on from no reply that has expired itself."""
        return (self.wish.expired_before or 0.0) if self.wish.refresh_expired else 0.0

    def _tell_unknown_kind(self, standing: Standing) -> None:
        if self.options.retry_failed in (None, ALL_KINDS):
            return
        kinds = standing.kinds()
        if self.options.retry_failed not in kinds:
            there = f"there are: {', '.join(kinds)}" if kinds else "no row has failed"
            self.say(f"--retry-failed {self.options.retry_failed}: no row failed with this kind; {there}")

    def _refuse_buying_again(self, known: Known) -> None:
        plan, each = known.plan, known.before
        if not plan.again or self.options.accept_changes:
            return
        cost = each.cost(self.job.prices)
        requests = plan.again * self.job.spec.samples
        price = "at an unknown price" if cost is None else f"for about {money(cost / max(1, each.billed) * requests)}"
        raise SpecError(
            f"the prompt, the model or its parameters changed: {plan.again} rows that have their answer would be asked "
            f"again, {price}; nothing was sent. Run with --accept-changes to buy them, or undo the change; the old "
            "answers are kept either way"
        )

    def _work(self, known: Known) -> Work:
        if known.standing is None:
            return Work(known.rows, 0, 0, known.rows, 0, None, changed=self._changed)
        failed = pl.col("answered").eq(False)
        marks = known.standing.each(known.standing.to_do(self.wish), failed, self.wish.renews())
        plan = known.plan
        statuses, kinds, _ = count_ended(known.standing.left_alone(self.wish))
        return Work(
            plan.rows - plan.copies,
            plan.done - plan.expired_again,
            plan.failed_kept,
            plan.to_send,
            min((at for at in map(marks.find, (1, 3, 5, 7)) if at >= 0), default=len(marks)),
            lambda ordinal: ordinal >= len(marks) or bool(marks[ordinal] & 1),
            lambda ordinal: ordinal < len(marks) and bool(marks[ordinal] & 2),
            self._changed,
            known.fresh,
            kept=known.kept,
            renews=lambda ordinal: ordinal < len(marks) and bool(marks[ordinal] & 4),
            statuses=statuses,
            kinds=kinds,
            unfetched=known.unfetched,
            copies=plan.copies,
        )


def expired_words(job: Job, count: int) -> str:
    return f"{count} answers are older than {job.spec.expire}; --refresh-expired asks them again"
