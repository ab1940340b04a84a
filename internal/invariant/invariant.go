// Package invariant stops the process when Trestle itself is wrong.
//
// Going on with a broken invariant would write wrong results, so Check panics.
// Never use it for what comes from outside: bytes, files, peers and users get
// errors.
package invariant

import "fmt"

// Check panics with the formatted message unless ok holds.
func Check(ok bool, format string, args ...any) {
	if !ok {
		panic("invariant broken: " + fmt.Sprintf(format, args...))
	}
}
