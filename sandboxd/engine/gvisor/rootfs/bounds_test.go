package rootfs

import "testing"

func TestOnlyBlobsAreReadWithoutALimit(t *testing.T) {
	for path, want := range map[string]bool{
		"/v2/library/python/blobs/sha256:0123456789abcdef":               true,
		"/v2/library/python/manifests/sha256:0123456789abcdef":           false,
		"/v2/library/python/manifests/latest":                            false,
		"/v2/team/blobs/python/manifests/latest":                         false, // a repository whose name contains "blobs"
		"/v2/team/blobs/python/manifests/sha256:0123456789abcdef":        false,
		"/v2/team/blobs/python/blobs/sha256:0123456789abcdef":            true,
		"/v2/library/python/blobs/uploads/0123456789abcdef-0123456789ab": false,
	} {
		if got := blobPath.MatchString(path); got != want {
			t.Errorf("blobPath matches %s: %v, want %v", path, got, want)
		}
	}
}
