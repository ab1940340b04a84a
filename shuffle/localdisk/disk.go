package localdisk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"trestle/shuffle/driver"
)

// openTries is how often a file is opened that is there, while the process has
// too many open ones.
const openTries = 40

// openPause is the time between two tries; shorter in tests.
var openPause = 50 * time.Millisecond

// busy reports whether err tells of this process's or machine's limits, and
// nothing of the file.
func busy(err error) bool {
	for _, e := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// openToRead is os.Open but in tests.
var openToRead = os.Open

// openFile opens a finished file. That too many are open passes: it waits for
// that, until stop is closed.
func openFile(path string, stop <-chan struct{}) (*os.File, error) {
	for try := 1; ; try++ {
		f, err := openToRead(path)
		if err == nil || !busy(err) || try == openTries {
			return f, err
		}
		select {
		case <-time.After(openPause):
		case <-stop:
			return nil, err
		}
	}
}

// lostUnless makes err the partition's end, unless it isn't the partition that
// is to blame.
func (p *partition) lostUnless(err error) error {
	if busy(err) {
		return fmt.Errorf("read partition %v: %w", p.id, err)
	}
	return &driver.PartitionError{Partition: p.id, Err: err}
}

// unexpected is err of a read that should have found all its bytes.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// full says which disk it is that is full.
func (d *Driver) full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("the disk of the shuffle directory %s is full: %w", d.dir, err)
	}
	return err
}
