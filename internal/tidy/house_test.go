package tidy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// root is the module's folder.
const root = "../.."

// A source is one parsed file.
type source struct {
	path    string // in the module
	room    string // the package's folder in the module
	test    bool
	lines   int
	file    *ast.File
	fset    *token.FileSet
	imports []string
}

// house reads all Go files of the module.
func house(t *testing.T) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin") {
			return filepath.SkipDir
		}
		if d.IsDir() || filepath.Ext(name) != ".go" {
			return nil
		}
		s, err := read(path)
		all = append(all, s)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 50 {
		t.Fatalf("found only %d files: is this the module's root?", len(all))
	}
	return all
}

func read(path string) (source, error) {
	in, err := filepath.Rel(root, path)
	if err != nil {
		return source{}, err
	}
	s := source{path: filepath.ToSlash(in), fset: token.NewFileSet(), test: strings.HasSuffix(path, "_test.go")}
	s.room = filepath.ToSlash(filepath.Dir(in))
	s.file, err = parser.ParseFile(s.fset, path, nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return s, err
	}
	s.lines = s.fset.File(s.file.Pos()).LineCount()
	for _, i := range s.file.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			return s, err
		}
		s.imports = append(s.imports, p)
	}
	return s, nil
}

// ours is the room that an import path names, or "".
func ours(path string) string {
	room, ok := strings.CutPrefix(path, module+"/")
	if !ok {
		return ""
	}
	return room
}

// within reports whether path is folder or something in it.
func within(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, folder+"/")
}

func withinAny(path string, folders []string) bool {
	for _, f := range folders {
		if within(path, f) {
			return true
		}
	}
	return false
}

// product leaves the tests out.
func product(all []source) []source {
	var kept []source
	for _, s := range all {
		if !s.test {
			kept = append(kept, s)
		}
	}
	return kept
}

// An exceptions list that remembers which of its entries were needed.
type exceptions struct {
	reasons map[string]string
	used    map[string]bool
}

func excepting(reasons map[string]string) *exceptions {
	return &exceptions{reasons: reasons, used: map[string]bool{}}
}

func (e *exceptions) allow(what string) bool {
	_, ok := e.reasons[what]
	e.used[what] = e.used[what] || ok
	return ok
}

// mustBeNeeded fails for entries that stand there for nothing.
func (e *exceptions) mustBeNeeded(t *testing.T) {
	t.Helper()
	for what := range e.reasons {
		if !e.used[what] {
			t.Errorf("exception %q is no longer needed: take it off the list", what)
		}
	}
}
