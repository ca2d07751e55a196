{{/*
A signing key and tokens for trying out, by helm alone: HS256 is the one algorithm that can be done with what templates
have. The key is the text of 64 hexadecimal digits, which is as long as a block of SHA-256.
*/}}

{{/* Base64 of what 64 hexadecimal digits stand for: three digits at a time are two characters. */}}
{{- define "tidegate.hexToBase64" -}}
{{- $digits := dict -}}
{{- range $value, $digit := splitList "" "0123456789abcdef" -}}
{{- $_ := set $digits $digit $value -}}
{{- end -}}
{{- $alphabet := splitList "" "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/" -}}
{{- $hex := splitList "" (print . "00") -}}
{{- $text := "" -}}
{{- range $place := untilStep 0 66 3 -}}
{{- $bits := add (mul 256 (get $digits (index $hex $place))) (mul 16 (get $digits (index $hex (add1 $place)))) (get $digits (index $hex (add $place 2))) -}}
{{- $text = print $text (index $alphabet (div $bits 64)) (index $alphabet (mod $bits 64)) -}}
{{- end -}}
{{- printf "%s=" (substr 0 43 $text) -}}
{{- end -}}

{{- define "tidegate.base64url" -}}
{{- . | replace "+" "-" | replace "/" "_" | replace "=" "" -}}
{{- end -}}

{{/* HMAC-SHA256 in base64url: (list key text). */}}
{{- define "tidegate.hmac" -}}
{{- $inner := dict "0" "\x06" "1" "\x07" "2" "\x04" "3" "\x05" "4" "\x02" "5" "\x03" "6" "\x00" "7" "\x01" "8" "\x0e" "9" "\x0f" "a" "W" "b" "T" "c" "U" "d" "R" "e" "S" "f" "P" -}}
{{- $outer := dict "0" "l" "1" "m" "2" "n" "3" "o" "4" "h" "5" "i" "6" "j" "7" "k" "8" "d" "9" "e" "a" "=" "b" ">" "c" "?" "d" "8" "e" "9" "f" ":" -}}
{{- $inside := "" -}}
{{- $outside := "" -}}
{{- range splitList "" (index . 0) -}}
{{- $inside = print $inside (get $inner .) -}}
{{- $outside = print $outside (get $outer .) -}}
{{- end -}}
{{- $hash := print $inside (index . 1) | sha256sum -}}
{{- print $outside (include "tidegate.hexToBase64" $hash | b64dec) | sha256sum | include "tidegate.hexToBase64" | include "tidegate.base64url" -}}
{{- end -}}

{{/* The key, drawn at the first install and kept from then on. */}}
{{- define "tidegate.tryoutKey" -}}
{{- $old := lookup "v1" "Secret" .Release.Namespace (printf "%s-tryout" (include "tidegate.fullname" .)) -}}
{{- if and $old $old.data -}}
{{- printf "%s==" ((index $old.data "signing-key.json") | b64dec | fromJson).k | b64dec -}}
{{- else -}}
{{- randBytes 48 | sha256sum -}}
{{- end -}}
{{- end -}}

{{/* The name of a key: its thumbprint (RFC 7638). */}}
{{- define "tidegate.keyId" -}}
{{- printf "{\"k\":\"%s\",\"kty\":\"oct\"}" (b64enc . | include "tidegate.base64url") | sha256sum | include "tidegate.hexToBase64" | include "tidegate.base64url" -}}
{{- end -}}

{{/* A signed token: (dict "root" $ "key" … "claims" (dict …)). */}}
{{- define "tidegate.token" -}}
{{- $auth := (include "tidegate.config" .root | fromYaml).auth | default dict -}}
{{- $now := now | unixEpoch | int64 -}}
{{- $claims := merge (dict
  "iss" ($auth.issuer | default "tidegate")
  "aud" ($auth.audience | default "tidegate")
  ($auth.tenant_claim | default "tenant") .root.Values.tryout.tenant
  "iat" $now
  "exp" (add $now (mul 86400 (int .root.Values.tryout.tokenDays)))) .claims -}}
{{- $head := dict "alg" "HS256" "typ" "JWT" "kid" (include "tidegate.keyId" .key) -}}
{{- $body := printf "%s.%s" ($head | toJson | b64enc | include "tidegate.base64url") ($claims | toJson | b64enc | include "tidegate.base64url") -}}
{{- printf "%s.%s" $body (include "tidegate.hmac" (list .key $body)) -}}
{{- end -}}
