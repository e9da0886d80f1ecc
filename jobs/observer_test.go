package jobs_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/jobs"
)

func TestObserver_isToldWhatTheWorkerDoes(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		type key struct{}
		var mu sync.Mutex // guards what follows
		var claims []jobs.ClaimInfo
		var ends []jobs.EndInfo
		depth := make(chan jobs.DepthInfo, 1)
		later := time.Now().Add(time.Hour)
		w.enqueue(t, hostdb.SystemJob{JobType: "other"})
		w.enqueue(t, hostdb.SystemJob{JobType: "other", RunAfter: &later})
		observer := &jobs.Observer{
			Claimed: func(ctx context.Context, info jobs.ClaimInfo) context.Context {
				mu.Lock()
				defer mu.Unlock()
				claims = append(claims, info)
				return context.WithValue(ctx, key{}, info.JobID)
			},
			Ended: func(ctx context.Context, info jobs.EndInfo) {
				mu.Lock()
				defer mu.Unlock()
				if ctx.Value(key{}) != info.JobID {
					t.Error("the end has another context")
				}
				ends = append(ends, info)
				panic("the observer's")
			},
			Depth: func(_ context.Context, info jobs.DepthInfo) {
				select {
				case depth <- info:
				default:
				}
			},
		}
		failure := errors.New("it can't")
		worker, err := jobs.New(jobs.Config{Host: w.host, Middleware: w.mw, Observer: observer,
			PollInterval: 10 * time.Millisecond, Lease: lease, Handlers: map[string]jobs.Handler{
				"good": func(ctx context.Context, job *hostdb.SystemJob) error {
					if ctx.Value(key{}) != job.ID {
						t.Error("the handler has another context")
					}
					return nil
				},
				"bad": func(context.Context, *hostdb.SystemJob) error { return failure },
			}})
		must(t, err)
		if d := (<-depth).QueueDepth; d != (hostdb.QueueDepth{Ready: 1, Delayed: 1}) {
			t.Errorf("depth %+v", d)
		}
		acme := w.tenants["acme"].ID
		good := w.enqueue(t, hostdb.SystemJob{JobType: "good", TenantID: acme})
		again := w.enqueue(t, hostdb.SystemJob{JobType: "bad"})
		last := w.enqueue(t, hostdb.SystemJob{JobType: "bad", MaxAttempts: 1})
		w.await(t, good.ID, hostdb.JobCompleted)
		w.await(t, last.ID, hostdb.JobFailed)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for tries, row := 0, again; row.ErrorLog == ""; tries++ {
			if tries == 2000 {
				t.Fatalf("the attempt has not failed within 20 s: %+v", row)
			}
			<-tick.C
			row, err = w.host.Jobs.Get(t.Context(), again.ID)
			must(t, err)
		}
		must(t, worker.Close(t.Context()))
		for _, want := range []jobs.EndInfo{
			{JobID: good.ID, JobType: "good", TenantID: acme, Attempt: 1, Result: jobs.ResultDone},
			{JobID: again.ID, JobType: "bad", Attempt: 1, Result: jobs.ResultFailed, Err: failure},
			{JobID: last.ID, JobType: "bad", Attempt: 1, Result: jobs.ResultDead, Err: failure},
		} {
			if !slices.ContainsFunc(ends, func(got jobs.EndInfo) bool {
				took := got.Duration
				got.Duration = 0
				return got == want && took > 0
			}) {
				t.Errorf("%+v is missing from %+v", want, ends)
			}
		}
		if len(claims) != 3 || claims[0].Attempt != 1 || claims[0].Delay <= 0 ||
			claims[0].Delay > time.Minute {
			t.Errorf("claims %+v", claims)
		}
	})
}
