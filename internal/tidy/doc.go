// Package tidy keeps the house in order: its tests hold the rules about rooms
// that no compiler checks.
//
// Which room may import which, which rooms are pure, which room owns which
// outside library, and how long a function or a file may be, is data in
// rooms_test.go. Exceptions are named there with their reason, and one that is
// no longer needed fails the tests too, so that the lists only shrink.
package tidy
