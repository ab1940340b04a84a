package task

import "trestle/coders"

// apart appends an element once for each of its windows; what has one aliases v.
// Restrictions are done for each window by itself: Go's SDK loses all windows
// but the first of what it splits (it takes them for done one after another, and
// did them at once).
func apart(dst [][]byte, w *coders.Windowed, v *coders.Value) ([][]byte, error) {
	if v.NumWindows == 1 {
		return append(dst, v.Raw), nil
	}
	rest := v.Windows
	for range v.NumWindows {
		var code []byte
		var err error
		if code, rest, err = w.CutWindow(rest); err != nil {
			return nil, err
		}
		dst = append(dst, append(coders.AppendHeader(nil, v.Timestamp(), 1, code, v.Pane), v.Elem...))
	}
	return dst, nil
}
