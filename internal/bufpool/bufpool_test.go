package bufpool

import "testing"

// Buffers have the length asked for, and come back if they are of the pool's
// sizes. Others are taken without harm.
func TestPool(t *testing.T) {
	p := New(4, 8)
	for _, n := range []int{0, 1, 15, 16, 17, 256, 257, 1000} {
		b := p.Get(n)
		if len(*b) != n {
			t.Errorf("asked for %d, got %d", n, len(*b))
		}
		if n <= 256 && (cap(*b) < 16 || cap(*b)&(cap(*b)-1) != 0) {
			t.Errorf("a buffer of %d has room for %d", n, cap(*b))
		}
		p.Put(b)
	}
	odd, none := make([]byte, 100), []byte(nil)
	p.Put(&odd)
	p.Put(&none)
	if b := p.Get(100); cap(*b) != 128 {
		t.Errorf("a stranger's buffer came back: room for %d", cap(*b))
	}
}
