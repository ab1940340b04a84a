package task

// SetLedgerBytes changes from where on queues put into a file what was taken,
// until the returned function is called. No TaskManager may run meanwhile.
func SetLedgerBytes(n int) (restore func()) {
	old := ledgerBytes
	ledgerBytes = n
	return func() { ledgerBytes = old }
}
