package memory_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"trestle/internal/membudget"
	"trestle/shuffle/driver"
	"trestle/shuffle/memory"
	"trestle/shuffle/shuffletest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDriver(t *testing.T) {
	shuffletest.Run(t, shuffletest.Fixture{
		Pipelined: true,
		New: func(t *testing.T, budget *membudget.Budget) driver.Driver {
			return memory.New(memory.Config{Budget: budget, Dir: t.TempDir()})
		},
	})
}

var theID = driver.PartitionID{Job: "j", Dataset: "d", Attempt: 1}

// A writer waits when its queue is full and goes on when the reader has made
// room; all the while the queue holds no more than its bound.
func TestBackPressure(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		budget := membudget.New(1 << 30)
		d := memory.New(memory.Config{Budget: budget, Dir: dir, Window: 100_000})
		p, err := d.Create(theID, 1)
		if err != nil {
			t.Fatal(err)
		}
		published := 0
		done := make(chan error, 1)
		go func() {
			for range 10 {
				b := driver.Block{Count: 1, Data: append(budget.Chunk(40_000), make([]byte, 40_000)...)}
				if err := p.Publish(context.Background(), []driver.Block{b}); err != nil {
					done <- err
					return
				}
				published++
			}
			_, err := p.Close()
			done <- err
		}()
		synctest.Wait()
		if published != 2 {
			t.Fatalf("%d blocks of 40,000 bytes fit a window of 100,000", published)
		}
		r, err := d.Open([]driver.PartitionID{theID}, 0, 1)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for i := range 10 {
			if _, _, err := r.Next(context.Background()); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if want := min(i+3, 10); published != want {
				t.Fatalf("after reading %d: %d published, want %d", i+1, published, want)
			}
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

// A reader that leaves early ends a writer that waits for it, and a writer
// that gives up ends a reader that waits for it.
func TestOneSideLeaves(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		budget := membudget.New(1 << 30)
		d := memory.New(memory.Config{Budget: budget, Dir: dir, Window: 1})
		p, _ := d.Create(theID, 1)
		r, err := d.Open([]driver.PartitionID{theID}, 0, 1)
		if err != nil {
			t.Fatal(err)
		}
		wrote := make(chan error, 1)
		go func() {
			var err error
			for err == nil {
				b := driver.Block{Count: 1, Data: append(budget.Chunk(40_000), make([]byte, 40_000)...)}
				err = p.Publish(context.Background(), []driver.Block{b})
			}
			wrote <- err
		}()
		synctest.Wait()
		r.Close()
		var pe *driver.PartitionError
		if err := <-wrote; !errors.As(err, &pe) || pe.Partition != theID {
			t.Fatalf("the writer must fail for its partition, not with %v", err)
		}

		second := theID
		second.Attempt = 2
		r, err = d.Open([]driver.PartitionID{second}, 0, 1) // before it is created
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		read := make(chan error, 1)
		go func() { _, _, err := r.Next(context.Background()); read <- err }()
		synctest.Wait()
		p, err = d.Create(second, 1)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		cause := errors.New("worker lost")
		p.Abort(cause)
		if err := <-read; !errors.As(err, &pe) || !errors.Is(err, cause) || pe.Partition != second {
			t.Fatalf("got %v", err)
		}
	})
}

// Two readers of one sub-partition would share its elements: refused.
func TestOneReaderPerSubPartition(t *testing.T) {
	d := memory.New(memory.Config{Budget: membudget.New(1 << 20), Dir: t.TempDir()})
	r, err := d.Open([]driver.PartitionID{theID}, 0, 4)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := d.Open([]driver.PartitionID{theID}, 3, 5); err == nil {
		t.Fatal("overlapping readers must be refused")
	}
	other, err := d.Open([]driver.PartitionID{theID}, 4, 5)
	if err != nil {
		t.Fatal(err)
	}
	other.Close()
}
