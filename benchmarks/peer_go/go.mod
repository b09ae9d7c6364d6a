module peer

go 1.24

require github.com/tus/tusd/v2 v2.10.0
