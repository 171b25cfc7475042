package journal

import "unicode/utf8"

// charStart returns i, or the start of the character that contains byte i if i is inside a character.
func charStart(p []byte, i int) int {
	for i > 0 && i < len(p) && !utf8.RuneStart(p[i]) {
		i--
	}
	return i
}

// charEnd returns i, or the start of the next character if i is inside a character.
func charEnd(p []byte, i int) int {
	for i < len(p) && !utf8.RuneStart(p[i]) {
		i++
	}
	return i
}
