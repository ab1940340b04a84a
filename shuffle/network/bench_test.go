package network_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"trestle/internal/membudget"
	"trestle/shuffle/driver"
)

const (
	benchBlock  = 128 << 10
	benchBlocks = 1024
)

// BenchmarkRead measures the network road over loopback, beside reading in the
// same process: one reader, blocks of 128 KiB that compress to about a half, or not at all.
func BenchmarkRead(b *testing.B) {
	for _, c := range []struct {
		name  string
		noise int // of 256 bytes
		disk  bool
	}{
		{"memory/half", 128, false}, {"memory/noise", 256, false}, {"disk/half", 128, true}, {"disk/noise", 256, true},
	} {
		b.Run(c.name+"/network", func(b *testing.B) { benchmarkRead(b, c.noise, c.disk, true) })
		b.Run(c.name+"/local", func(b *testing.B) { benchmarkRead(b, c.noise, c.disk, false) })
	}
}

// benchmarkRead reads 128 MiB, b.N times. Server and client are one process: the
// CPU is that of both.
func benchmarkRead(b *testing.B, noise int, disk, network bool) {
	r := newRig(b, rigConfig{budget: membudget.New(1 << 30)})
	p, err := r.disk.Create(id(0), 1)
	if err != nil {
		b.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range benchBlocks {
		data := r.budget.Chunk(benchBlock)[:benchBlock]
		for i := range data {
			data[i] = 'x'
			if i%256 < noise {
				data[i] = byte(rng.Uint32())
			}
		}
		block := driver.Block{Count: 1, Data: data}
		if disk {
			if err := p.Stage(&block); err != nil {
				b.Fatal(err)
			}
		}
		if err := p.Publish(context.Background(), []driver.Block{block}); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := p.Close(); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(benchBlock * benchBlocks)
	before := cpu(b)
	b.ResetTimer()
	for range b.N {
		var rd driver.Reader = r.client.Open("tm-1", blocking, []driver.PartitionID{id(0)}, 0, 1)
		if !network {
			if rd, err = r.disk.Open([]driver.PartitionID{id(0)}, 0, 1); err != nil {
				b.Fatal(err)
			}
		}
		for {
			_, _, err := rd.Next(context.Background())
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
		}
		rd.Close()
	}
	b.StopTimer()
	b.ReportMetric((cpu(b)-before).Seconds()/(float64(b.N)*benchBlock*benchBlocks/1e9), "cpu-s/GB")
	r.disk.ReleaseJob("job")
}

// cpu is what this process has used.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
