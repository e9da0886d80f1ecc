package judge

import (
	"testing"
	"time"
)

const bound = time.Second

var noon = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// at returns a time, in milliseconds after noon.
func at(ms int) time.Time { return noon.Add(time.Duration(ms) * time.Millisecond) }

// changed records a change.
func changed(j *Judge, s Subject, given bool, before, after int) {
	j.Changing(s, given, at(before))
	j.Changed(s, at(after))
}

func response(sent int, allowed bool) Response {
	return Response{User: "u", Tenant: "t", Sent: at(sent), Got: at(sent + 10), Allowed: allowed,
		Denied: !allowed, Data: map[bool]string{true: "t"}[allowed]}
}

func TestJudge_Judge(t *testing.T) {
	membership := Membership("u", "t")
	revoked := func(j *Judge) { changed(j, membership, false, 0, 5) }
	for name, c := range map[string]struct {
		facts func(*Judge)
		r     Response
		want  string
	}{
		"a member is let in":                  {func(*Judge) {}, response(0, true), ""},
		"a member is denied":                  {func(*Judge) {}, response(0, false), LateDenial},
		"somebody revoked is denied":          {revoked, response(10, false), ""},
		"somebody revoked is let in at first": {revoked, response(900, true), ""},
		"somebody revoked is let in for long": {revoked, response(1100, true), LateAllow},
		"the commit was while it was answered": {
			revoked, Response{User: "u", Tenant: "t", Sent: at(-5), Got: at(3000), Allowed: true}, ""},
		"a tenant is closed": {func(j *Judge) {
			changed(j, Tenant("t"), false, 0, 5)
		}, response(1100, true), LateAllow},
		"a subscription is cancelled": {func(j *Judge) {
			changed(j, Subscription("t"), false, 0, 5)
		}, response(1100, true), LateAllow},
		"another's membership is revoked": {func(j *Judge) {
			changed(j, Membership("v", "t"), false, 0, 5)
		}, response(1100, true), ""},
		"a right given back is denied at first": {func(j *Judge) {
			revoked(j)
			changed(j, membership, true, 100, 105)
		}, response(900, false), ""},
		"a right given back is denied for long": {func(j *Judge) {
			revoked(j)
			changed(j, membership, true, 100, 105)
		}, response(1200, false), LateDenial},
		"nobody knows whether it was revoked, let in": {func(j *Judge) {
			j.Changing(membership, false, at(0))
		}, response(5000, true), ""},
		"nobody knows whether it was revoked, denied": {func(j *Judge) {
			j.Changing(membership, false, at(0))
		}, response(5000, false), ""},
		"it is being revoked, let in": {func(j *Judge) {
			changed(j, membership, false, -20, -10)
			changed(j, membership, true, -9, -5)
			j.Changing(membership, false, at(0))
		}, response(1, true), ""},
		"it is being revoked, denied": {func(j *Judge) {
			changed(j, membership, false, -8000, -7000)
			changed(j, membership, true, -6000, -5000)
			j.Changing(membership, false, at(0))
		}, response(1, false), ""},
		"unknown, then settled": {func(j *Judge) {
			j.Changing(membership, true, at(0))
			changed(j, membership, false, 50, 60)
		}, response(1100, true), LateAllow},
		"an outage began before it was felt, let in in it": {func(j *Judge) {
			revoked(j)
			j.Outage(at(50))
		}, response(5000, true), ""},
		"an outage ended less than the bound ago": {func(j *Judge) {
			revoked(j)
			j.Outage(at(50))(at(4500))
		}, response(5000, true), ""},
		"an outage ended longer than the bound ago": {func(j *Judge) {
			revoked(j)
			j.Outage(at(50))(at(4500))
		}, response(6000, true), LateAllow},
		"an outage began after it must have been felt": {func(j *Judge) {
			revoked(j)
			j.Outage(at(1500))
		}, response(2000, true), LateAllow},
		"an outage was before": {func(j *Judge) {
			j.Outage(at(-500))(at(-100))
			revoked(j)
		}, response(1100, true), LateAllow},
		"another tenant's data": {func(*Judge) {},
			Response{User: "u", Tenant: "t", Sent: at(0), Got: at(1), Allowed: true, Data: "s"}, OtherData},
		"a failure": {revoked, Response{User: "u", Tenant: "t", Sent: at(5000), Got: at(5001)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			j := New(bound)
			c.facts(j)
			j.Judge(c.r)
			report := j.Take()
			got := ""
			if len(report.Wrong) > 0 {
				got = report.Wrong[0].What
			}
			if got != c.want || len(report.Wrong) > 1 {
				t.Errorf("got %v, want %q", report.Wrong, c.want)
			}
			if again := j.Take(); again.Judged != 0 || len(again.Wrong) != 0 {
				t.Errorf("a second report has %+v", again)
			}
		})
	}
}

func TestJudge_Found_reportsAMissingWriteOnce(t *testing.T) {
	j := New(bound)
	now := time.Now()
	j.Acknowledged("t", "1", now)
	j.Acknowledged("t", "2", now)
	j.Acknowledged("gone", "3", now)
	j.Forgive("gone")
	j.Acknowledged("gone", "sent before and answered after", now)
	written := j.Written()
	j.Acknowledged("t", "after the look began", now)
	rows := map[string]string{"1": "t", "never acknowledged": "t"}
	if lost := j.Found("t", written["t"], rows); lost != 1 {
		t.Errorf("%d lost, want 1", lost)
	}
	if lost := j.Found("gone", written["gone"], nil); lost != 0 {
		t.Errorf("%d lost of a tenant that was forgiven", lost)
	}
	if n := j.Take().Count(MissingWrite); n != 1 {
		t.Errorf("%d verdicts, want 1", n)
	}
	rows["after the look began"] = "t"
	if lost := j.Found("t", j.Written()["t"], rows); lost != 0 {
		t.Errorf("%d lost at the second look", lost)
	}
}

func TestJudge_Found_reportsARowOfAnotherTenant(t *testing.T) {
	j := New(bound)
	j.Found("t", nil, map[string]string{"1": "s"})
	if n := j.Take().Count(OtherData); n != 1 {
		t.Errorf("%d verdicts, want 1", n)
	}
}
