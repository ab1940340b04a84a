package main

import (
	"fmt"
	"os"
	"strings"
)

// Markers of a section of the document that this program writes.
const (
	beginMarker = "<!-- bench:%s -->\n"
	endMarker   = "<!-- /bench:%s -->\n"
)

// writeDocument puts text between the markers of a section. All else in the
// file is somebody's own words and stays as it is.
func writeDocument(path, section, text string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	changed, err := replaceSection(string(old), section, text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, []byte(changed), 0o644)
}

func replaceSection(document, section, text string) (string, error) {
	begin, end := fmt.Sprintf(beginMarker, section), fmt.Sprintf(endMarker, section)
	before, rest, ok := strings.Cut(document, begin)
	if !ok {
		return "", fmt.Errorf("there is no line %q", strings.TrimSpace(begin))
	}
	_, after, ok := strings.Cut(rest, end)
	if !ok {
		return "", fmt.Errorf("there is no line %q after %q", strings.TrimSpace(end), strings.TrimSpace(begin))
	}
	return before + begin + text + end + after, nil
}
