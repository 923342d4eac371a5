package vm

import "testing"

func TestMirrorIsTheOneOfAptsOwnSources(t *testing.T) {
	const deb822 = `Types: deb deb-src
# a note
URIs: http://deb.example.org/debian/
Suites: bookworm bookworm-updates
Components: main

Types: deb
URIs: http://deb.example.org/debian-security
Suites: bookworm-security
`
	for name, test := range map[string]struct {
		sources []source
		suite   string
		want    string
	}{
		"fields":             {parseDeb822(deb822), "bookworm", "http://deb.example.org/debian"},
		"lines":              {parseOneLine("# deb http://no.example/ x main\ndeb [signed-by=/k arch=amd64] https://m.example/debian trixie main\n"), "trixie", "https://m.example/debian"},
		"others only":        {parseOneLine("deb https://packages.example/apt tool-bookworm main\n"), "bookworm", ""},
		"source only":        {parseDeb822("Types: deb-src\nURIs: http://a.example/\nSuites: sid\n"), "sid", ""},
		"not in use":         {parseDeb822("Types: deb\nEnabled: no\nURIs: http://a.example/\nSuites: sid\n"), "sid", ""},
		"after a disc":       {parseOneLine("deb cdrom:[Debian]/ sid main\ndeb http://a.example/debian sid main\n"), "sid", "http://a.example/debian"},
		"security has no it": {parseDeb822(deb822), "bookworm-security", "http://deb.example.org/debian-security"},
	} {
		got, err := chooseMirror(test.sources, test.suite)
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%s: %q, %v; want %q", name, got, err, test.want)
		}
	}
	if got := codename("ID=debian\nVERSION_CODENAME=\"trixie\"\n"); got != "trixie" {
		t.Errorf("the code name is %q", got)
	}
}
