module backend

go 1.25

require github.com/versity/versitygw v1.7.0
