package judge

import (
	"slices"
	"time"
)

// Acknowledged records that a write, which was sent at a time, was acknowledged. Its id is unique.
func (j *Judge) Acknowledged(tenant, id string, sent time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !sent.Before(j.forgiven[tenant]) {
		j.acked[tenant] = append(j.acked[tenant], id)
	}
}

// Forgive records that a tenant's database was destroyed, or restored to an older state, on purpose. Writes
// that were sent until now may be lost.
func (j *Judge) Forgive(tenant string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.forgiven[tenant] = time.Now()
	delete(j.acked, tenant)
}

// Written returns the ids of the writes that were acknowledged so far and haven't been found missing, by
// tenant.
func (j *Judge) Written() map[string][]string {
	j.mu.Lock()
	defer j.mu.Unlock()
	written := make(map[string][]string, len(j.acked))
	for tenant, ids := range j.acked {
		written[tenant] = slices.Clone(ids)
	}
	return written
}

// Found takes the rows that a tenant's database has, with the tenants that they were made for, and the writes
// that had been acknowledged before it was read. It returns how many of those are missing, and adds verdicts
// for them and for rows of other tenants.
func (j *Judge) Found(tenant string, written []string, rows map[string]string) (lost int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, id := range written {
		if _, there := rows[id]; !there {
			lost++
			j.report.Wrong = append(j.report.Wrong,
				Verdict{What: MissingWrite, Detail: tenant + " " + id, Sent: time.Now()})
		}
	}
	if lost > 0 { // report each once
		j.acked[tenant] = slices.DeleteFunc(j.acked[tenant], func(id string) bool {
			_, there := rows[id]
			return !there && slices.Contains(written, id)
		})
	}
	for id, of := range rows {
		if of != tenant {
			j.report.Wrong = append(j.report.Wrong,
				Verdict{What: OtherData, Detail: "a row of " + of + " in " + tenant + ": " + id,
					Sent: time.Now()})
		}
	}
	return lost
}
