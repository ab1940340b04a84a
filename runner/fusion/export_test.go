package fusion

// SetMaxCopies sets the bound for a test and returns what sets it back.
func SetMaxCopies(n int) func() {
	old := maxCopies
	maxCopies = n
	return func() { maxCopies = old }
}

// SetMaxParts sets the bound for a test and returns what sets it back.
func SetMaxParts(n int) func() {
	old := maxParts
	maxParts = n
	return func() { maxParts = old }
}
