package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"trestle/itests/fleet"
)

// intervals are the times after which another TaskManager dies, as parts of the
// job's usual time in percent.
var intervals = []int{40, 80, 130}

// hopeless is after how many times its usual time a job is given up.
const hopeless = 3

// managers adds a row for each interval.
func (b *failoverBench) managers(ctx context.Context, what string, t *table) error {
	for _, percent := range intervals {
		every := b.usual * time.Duration(percent) / 100
		_, at, _, err := b.leader(ctx, 0)
		if err != nil {
			return err
		}
		d, err := b.begin(ctx, at)
		if err != nil {
			return err
		}
		died, over := 0, false
		for ; !over; died++ {
			if over, err = d.await(ctx, every*time.Duration(died+1)); err != nil {
				return fmt.Errorf("%s, every %s: %w", what, every, err)
			}
			if over {
				break
			}
			if time.Since(d.began) > hopeless*b.usual {
				err = d.cancel(ctx)
				break
			}
			if err := b.loseHost(ctx, died); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
		if !over {
			t.rows = append(t.rows, []string{seconds(every), what, "not done after " + seconds(time.Since(d.began)), "", fmt.Sprint(died), ""})
			continue
		}
		took, again, err := d.end()
		if err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "a TaskManager dies every %s, %s: %s, %d died, %d elements again\n", every, what, took, died, again)
		t.rows = append(t.rows, []string{seconds(every), what, seconds(took), ratio(took, b.usual), fmt.Sprint(died), fmt.Sprint(again)})
	}
	return nil
}

// loseHost takes a TaskManager's host away with its disk, and gives it back
// empty.
func (b *failoverBench) loseHost(ctx context.Context, turn int) error {
	all := b.Of(fleet.TaskManager)
	n := all[turn%len(all)]
	return errors.Join(n.PowerOff(), os.RemoveAll(n.Data()), os.Mkdir(n.Data(), 0o700), n.Restart(ctx))
}

// wholes adds rows for a job that is started from zero each time.
func (b *failoverBench) wholes(ctx context.Context, t *table) error {
	for _, percent := range intervals {
		every := b.usual * time.Duration(percent) / 100
		_, at, _, err := b.leader(ctx, 0)
		if err != nil {
			return err
		}
		began, died, over := time.Now(), 0, false
		for !over && time.Since(began) < hopeless*b.usual {
			d, err := b.begin(ctx, at)
			if err != nil {
				return err
			}
			if over, err = d.await(ctx, time.Until(began.Add(every*time.Duration(died+1)))); err != nil {
				return fmt.Errorf("whole, every %s: %w", every, err)
			}
			if over {
				_, _, err := d.end()
				if err != nil {
					return err
				}
				break
			}
			if err := errors.Join(d.cancel(ctx), b.loseHost(ctx, died)); err != nil {
				return err
			}
			died++
		}
		took := time.Since(began)
		fmt.Fprintf(os.Stderr, "a TaskManager dies every %s, whole: %s, done: %v, %d died\n", every, took, over, died)
		row := []string{seconds(every), "whole", seconds(took), ratio(took, b.usual), fmt.Sprint(died), "all"}
		if !over {
			row = []string{seconds(every), "whole", "not done after " + seconds(took), "", fmt.Sprint(died), "all"}
		}
		t.rows = append(t.rows, row)
	}
	return nil
}
