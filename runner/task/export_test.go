package task

import "trestle/runner/jobgraph"

// SetLedgerBytes changes from where on queues put into a file what was taken,
// until the returned function is called. No TaskManager may run meanwhile.
func SetLedgerBytes(n int) (restore func()) {
	old := ledgerBytes
	ledgerBytes = n
	return func() { ledgerBytes = old }
}

// Sharing is how many tasks of a streaming source are in its pool.
func (m *TaskManager) Sharing(job string, stage jobgraph.StageID) int {
	m.mu.Lock()
	j := m.streams[job]
	m.mu.Unlock()
	if j == nil {
		return 0
	}
	p := j.restrictionPool(stage)
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.members)
}
